"""A trainer on tiny models and invented rows."""

import copy

import pytest
import torch
from conftest import make_tiny_model, qa_rows

from egup_trainer import EGUPConfig, EGUPTrainer, UnlearnConfig, UnlearnTrainer
from egup_trainer.components.features import FeatureMemory
from egup_trainer.components.forget import ForgetObjective
from egup_trainer.components.proxy_constraint import ProxyConstraint
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.layouts import to_row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.modeling.forward import AnswerReader

TRIAL = 3
"""Passes over two short rows by which a reader learns, once, whether the model can read packed rows."""


@pytest.fixture
def config(tmp_path):
    """config(kind=EGUPConfig, **options): a quiet configuration that writes below tmp_path, with all of EGUP on."""

    def make(kind=EGUPConfig, **options):
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "learning_rate": 1e-2,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "verdict": False,
            "objective": "npo",
            "dataloader_pin_memory": False,
        }
        if issubclass(kind, EGUPConfig):
            defaults |= {"inter_entanglement": True, "intra_entanglement": True}
        return kind(**{**defaults, **options})

    return make


@pytest.fixture
def make_trainer(make_model, tokenizer, config):
    """make_trainer(**options): an EGUPTrainer on 10 forget, 13 retain and, unless proxies=False, 6 proxy rows.

    `forget` is another number of forget rows, or the rows themselves.
    """

    def make(model=None, proxies=True, forget=10, callbacks=None, peft_config=None, eval_dataset=None, **options):
        return EGUPTrainer(
            model if model is not None else make_model(),
            config(**options),
            forget_dataset=qa_rows(0, forget) if isinstance(forget, int) else forget,
            retain_dataset=qa_rows(20, 33),
            proxy_dataset=qa_rows(40, 46) if proxies else None,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=peft_config,
        )

    return make


@pytest.fixture(scope="session")
def taught(tokenizer):
    """taught(): a tiny model that knows the 10 forget and the 13 retain rows of `make_trainer` nearly by heart."""
    model = make_tiny_model(tokenizer)
    rows = tokenize([to_row(row, "rows", 0) for row in (*qa_rows(0, 10), *qa_rows(20, 33))], tokenizer, name="rows")
    batch = RowCollator(tokenizer)([rows[index] for index in range(len(rows))])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    reader = AnswerReader(model)
    for _ in range(80):
        optimizer.zero_grad()
        reader(model, **batch, with_features=False).mean_nll.mean().backward()
        optimizer.step()
    return lambda: copy.deepcopy(model)


@pytest.fixture
def make_plain_trainer(make_model, tokenizer, config):
    """make_plain_trainer(**options): an UnlearnTrainer on the same rows."""

    def make(model=None, **options):
        return UnlearnTrainer(
            model if model is not None else make_model(),
            config(UnlearnConfig, **options),
            forget_dataset=qa_rows(0, 10),
            retain_dataset=qa_rows(20, 33),
            processing_class=tokenizer,
        )

    return make


@pytest.fixture
def base(make_model, tokenizer, tmp_path):
    """Folder of a saved tiny model."""
    folder = tmp_path / "models" / "base"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def weights_of(trainer) -> dict:
    """A copy of the model's parameters by name."""
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def furthest(first: dict, second: dict) -> float:
    """Largest absolute difference between two sets of weights."""
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def whole_and_resumed(make, tmp_path, step: int, **options):
    """A run, and another one from its checkpoint of `step`, by `make(**options)`: they end with the same weights."""
    options |= {"save_strategy": "steps", "save_steps": step}
    whole = make(output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    resumed = make(output_dir=str(tmp_path / "resumed"), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert resumed.state.global_step == whole.state.global_step > step
    assert furthest(weights_of(whole), weights_of(resumed)) == 0
    return whole, resumed


CUTS = [(8, 1), (4, 2), (2, 4), (1, 8)]
"""Ways to cut a step of 8 rows: rows of a batch, batches of a step."""


def runs_of_any_cut(make, cuts=CUTS, moved=1e-4, apart=1e-6, **options) -> list:
    """Runs by `make(**options)`, one for each cut: each moves the weights by `moved` and ends within `apart`."""
    runs = []
    for batch, accumulation in cuts:
        trainer = make(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **options)
        start = weights_of(trainer)
        trainer.train()
        assert furthest(start, weights_of(trainer)) > moved
        runs.append(trainer)
    assert max(furthest(weights_of(runs[0]), weights_of(other)) for other in runs[1:]) < apart
    return runs


def logged(trainer, name: str) -> list:
    """What a run logged by this name."""
    return [row[name] for row in trainer.state.log_history if name in row]


def cache_of(trainer):
    """The features of all samples, as a trainer remembers them."""
    return trainer.component(FeatureMemory).cache


def boundary_of(trainer):
    """b_i of each forget row."""
    return trainer.component(ProxyConstraint).boundary


def reference_nll(trainer) -> dict:
    """L^0 of the forget rows, and of their alternates."""
    return trainer.component(ForgetObjective).nll
