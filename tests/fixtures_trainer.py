"""A trainer on tiny models and invented rows."""

import pytest
from conftest import qa_rows

from egup_trainer import EGUPConfig, EGUPTrainer, UnlearnConfig, UnlearnTrainer


@pytest.fixture
def config(tmp_path):
    """config(kind=EGUPConfig, **options): a quiet configuration that writes below tmp_path."""

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
            "dataloader_pin_memory": False,
        }
        return kind(**{**defaults, **options})

    return make


@pytest.fixture
def make_trainer(make_model, tokenizer, config):
    """make_trainer(**options): an EGUPTrainer on 10 forget, 13 retain and, unless proxies=False, 6 proxy rows."""

    def make(model=None, proxies=True, forget=10, callbacks=None, peft_config=None, eval_dataset=None, **options):
        return EGUPTrainer(
            model if model is not None else make_model(),
            config(**options),
            forget_dataset=qa_rows(0, forget),
            retain_dataset=qa_rows(20, 33),
            proxy_dataset=qa_rows(40, 46) if proxies else None,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=peft_config,
        )

    return make


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
