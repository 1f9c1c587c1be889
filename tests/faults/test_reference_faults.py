"""Faults of the field's reference code in data, steps and model, each beside ours on the same input.

The numbers are those of the list in the design's record; 1 (retain rows chosen by the global generator) is tested in
tests/data/test_pairing.py, and 4, 5 and 7 in test_reference_formula_faults.py.
"""

import copy
from collections import Counter
from dataclasses import replace
from types import MethodType

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import TRIAL, furthest, logged, reference_nll, weights_of
from peft import LoraConfig

from egup_trainer import EGUPTrainer, UnlearnConfig, UnlearnTrainer
from egup_trainer.components.step import StepCounts
from egup_trainer.data.collator import parts_of
from egup_trainer.errors import ConfigError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import add_adapter
from egup_trainer.modeling.reference import Reference, ReferenceKind

SGD = {"objective": "grad_diff", "optim": "sgd", "learning_rate": 0.2}


# 2. Updates that round to nothing; more in tests/trainer/test_movement.py


@pytest.fixture
def named(make_model, tokenizer, tmp_path):
    """Folder of a model that was published in bfloat16."""
    folder = tmp_path / "published"
    make_model().to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("autocast", [False, True])
def test_2_small_updates_count_by_default_and_are_lost_in_bfloat16(named, config, caplog, autocast):
    rows, unmoved = (qa_rows(0, 4), qa_rows(20, 24), qa_rows(40, 44)), {}
    for dtype in ("bfloat16", None):
        init = {} if dtype is None else {"model_init_kwargs": {"dtype": dtype}}
        trainer = EGUPTrainer(named, config(learning_rate=1e-6, bf16=autocast, **init), *rows)
        trainer.train()
        (unmoved[dtype],) = logged(trainer, "weights_unmoved")
        assert ("did not change during training" in caplog.text) == (dtype == "bfloat16")
        caplog.clear()
    assert unmoved["bfloat16"] > 0.9 > 0.1 > unmoved[None]


# 3. The mean of micro-batch means; two processes: tests/invariants/test_ddp.py


def mean_of_means(self, model, inputs, num_items_in_batch=None):
    """compute_loss with counts of the micro-batch, divided by their number as Trainer does."""
    counts = replace(num_items_in_batch, counts=StepCounts.of([inputs], self.accelerator))
    return type(self).compute_loss(self, model, inputs, False, counts) / self.current_gradient_accumulation_steps


def uneven(start, stop):
    """Rows whose answers are once, twice or three times as long."""
    rows = qa_rows(start, stop)
    return [{**row, "answer": " ".join([row["answer"]] * (1 + place % 3))} for place, row in enumerate(rows)]


def test_3_a_step_is_the_same_however_it_is_cut(make_model, tokenizer, config):
    ended, options = {}, {"max_grad_norm": 0.0, **SGD}
    for faulty in (True, False):
        for batch in (4, 2):
            cut = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // batch}
            args = config(UnlearnConfig, **options, **cut)
            trainer = UnlearnTrainer(make_model(), args, uneven(0, 8), uneven(20, 33), processing_class=tokenizer)
            if faulty:
                trainer.compute_loss = MethodType(mean_of_means, trainer)
            trainer.train()
            ended[faulty, batch] = weights_of(trainer)
    assert furthest(ended[True, 4], ended[False, 4]) < 1e-6
    assert furthest(ended[True, 4], ended[True, 2]) > 1e-3
    assert furthest(ended[False, 4], ended[False, 2]) < 1e-6


# 6. A copy of the model that nothing reads, and two forward passes where one serves


def part_by_part(self, model, inputs):
    """forward_parts with a pass for the forget rows and another one for the retain rows."""
    read = {}
    for part, rows in parts_of(inputs).items():
        read[part] = self.reader(model, *(inputs[name][rows] for name in ("input_ids", "attention_mask", "labels")))
    return read


def test_6_one_forward_pass_serves_forget_and_retain_rows(make_plain_trainer, make_model):
    passes, ended = Counter(), {}
    for faulty in (True, False):
        model = make_model()
        trainer = make_plain_trainer(model, **SGD)
        model.register_forward_hook(lambda *_, faulty=faulty: passes.update([faulty]))
        if faulty:
            trainer.forward_parts = MethodType(part_by_part, trainer)
        trainer.train()
        ended[faulty] = weights_of(trainer)
    assert passes == {True: TRIAL + 12, False: TRIAL + 6}
    assert furthest(ended[True], ended[False]) < 1e-6


@pytest.mark.parametrize(
    ("objective", "copies"),
    [(name, 0) for name in ("grad_ascent", "grad_diff", "npo", "simnpo", "wga", "satimp", "ceu", "finetune")]
    + [("undial", 1)],
)
def test_6_the_model_is_copied_only_for_a_loss_that_reads_its_logits(
    make_plain_trainer, make_model, monkeypatch, objective, copies
):
    copied, plain_copy = [], copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda thing, *rest: copied.append(thing) or plain_copy(thing, *rest))
    model = make_model()
    trainer = make_plain_trainer(model, objective=objective, max_steps=1)
    trainer.train()
    assert sum(thing is model for thing in copied) == copies
    Reference(ReferenceKind.FROZEN_COPY, model, trainer.reader)  # what the reference code does for every loss
    assert sum(thing is model for thing in copied) == copies + 1


def test_6_the_numbers_of_the_scan_are_those_of_a_copy(make_plain_trainer, make_model):
    model = make_model()
    frozen = copy.deepcopy(model)
    trainer = make_plain_trainer(model, objective="npo")
    trainer.train()
    batch = trainer.data_collator([trainer.forget_rows[row] for row in range(10)])
    with torch.no_grad():
        then, now = (AnswerReader(each)(each, **batch).sum_nll for each in (frozen, model))
    torch.testing.assert_close(reference_nll(trainer)["nll"], then)
    assert (now - then).abs().min() > 1


# 8. Epochs that fall short, and a warm-up that divides by the number of GPUs


def visits(trainer):
    """How often a run comes to each forget row."""
    seen, end_step = Counter(), trainer.end_step
    trainer.end_step = lambda: seen.update(trainer.collected.counts.forget_ids.tolist()) or end_step()
    trainer.train()
    return seen


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (3, 1), (2, 2), (2, 3), (1, 7), (8, 4), (5, 2)])
def test_8_epochs_are_whole_passes_over_the_forget_rows(make_plain_trainer, batch, accumulation):
    cut = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    assert visits(make_plain_trainer(num_train_epochs=3, **cut)) == dict.fromkeys(range(10), 3)
    steps = 3 * (10 // (batch * accumulation))  # the whole steps of an epoch, times epochs
    if 10 % (batch * accumulation) and steps:
        assert sum(visits(make_plain_trainer(max_steps=steps, **cut)).values()) < 3 * 10


@pytest.mark.parametrize(("warmup", "steps"), [(4, 4), (0.5, 3), (0, 0)])
def test_8_warm_up_takes_the_steps_it_is_told(make_plain_trainer, warmup, steps):
    with pytest.raises(ZeroDivisionError):
        _ = 1 * 10 // (4 * torch.cuda.device_count())  # epochs * rows // (batch * GPUs), on a machine without one
    trainer = make_plain_trainer(warmup_steps=warmup, lr_scheduler_type="constant_with_warmup")
    trainer.train()
    shares = [place / steps if place < steps else 1 for place in range(6)]
    assert logged(trainer, "learning_rate") == pytest.approx([1e-2 * share for share in shares])


# 9. Adapters under activation checkpointing whose inputs require no gradient

LORA = {"r": 4, "target_modules": ["q_proj", "lm_head"], "task_type": "CAUSAL_LM"}


def without_gradient(model):
    """The model with embeddings that require no gradient, whatever else makes them require one."""
    model.get_input_embeddings().register_forward_hook(lambda *call: call[-1].detach())
    return model


def test_9_checkpointed_layers_train_their_adapters(make_trainer, make_model):
    faulty = add_adapter(make_model(), LoraConfig(**LORA)).train()
    switch = getattr(faulty, "activation_checkpointing_enable", None) or faulty.gradient_checkpointing_enable
    switch({"use_reentrant": True})
    without_gradient(faulty)(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    trained = {name for name, weight in faulty.named_parameters() if weight.grad is not None}
    assert {name.split(".")[-4] for name in trained} == {"lm_head"}  # no error, and no layer learns

    trainer = make_trainer(gradient_checkpointing=True, peft_config=LoraConfig(**LORA))
    without_gradient(trainer.model)
    start = weights_of(trainer)
    trainer.train()
    moved = {name for name, weight in weights_of(trainer).items() if not torch.equal(weight, start[name])}
    assert moved == {name for name in start if "lora_" in name}
    assert len(moved) == 2 * (3 + 1)


def test_9_the_form_that_loses_gradients_is_refused(config):
    with pytest.raises(ConfigError, match="use_reentrant=true"):
        config(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})
