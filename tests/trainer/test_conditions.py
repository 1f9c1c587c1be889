"""A checkpoint is resumed under the conditions of its run alone; a refusal names what differs."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import furthest, weights_of
from peft import LoraConfig
from test_trainer import StopAt
from transformers import TrainingArguments

from egup_trainer import EGUPConfig, UnlearnConfig, UnlearnTrainer
from egup_trainer.conditions import DO_NOT_MATTER, options_of
from egup_trainer.errors import StateError

STEPS = {"save_strategy": "steps", "save_steps": 2}
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
OTHER_ROWS = [*qa_rows(0, 9), *qa_rows(10, 11)]

# What is changed -> how the refusal names it.
CHANGES = {
    "one row less": ({"forget": 9}, "other forget rows"),
    "another row": ({"forget": OTHER_ROWS}, "other forget rows"),
    "rows in another order": ({"forget": qa_rows(0, 10)[::-1]}, "other forget rows"),
    "no proxies": ({"proxies": False}, "other proxy rows"),
    "rate": ({"learning_rate": 0.02}, "learning_rate 0.02 (then 0.01)"),
    "epochs": ({"num_train_epochs": 3}, "num_train_epochs 3 (then 2)"),
    "steps": ({"max_steps": 7}, "max_steps 7 (then -1)"),
    "rows a step": ({"per_device_train_batch_size": 5}, "rows in a step 5 (then 4)"),
    "accumulation": ({"gradient_accumulation_steps": 2}, "rows in a step 8 (then 4)"),
    "seed": ({"seed": 1}, "seed 1 (then 42)"),
    "schedule": ({"lr_scheduler_type": "constant"}, 'lr_scheduler_type "constant" (then "linear")'),
    "optimizer": ({"optim": "sgd"}, 'optim "sgd" (then "adamw_torch'),
    "decay": ({"weight_decay": 0.1}, "weight_decay 0.1 (then 0.0)"),
    "norm": ({"max_grad_norm": 0.5}, "max_grad_norm 0.5 (then 1.0)"),
    "warmup": ({"warmup_steps": 2}, "warmup_steps 2 (then 0)"),
    "precision": ({"bf16": True}, 'precision "bf16" (then "no")'),
    "dropout": ({"disable_dropout": False}, "disable_dropout false (then true)"),
    "retain weight": ({"retain_weight": 0.5}, "retain_weight 0.5 (then 1.0)"),
    "layer": ({"feature_layer": 0}, "feature_layer 0 (then 0.5)"),
    "constraint": ({"proxy_constraint": False}, "proxy_constraint false (then true)"),
    "boundary": ({"proxy_match": "mean"}, 'proxy_match "mean" (then "nearest")'),
    "best": ({"load_best_model_at_end": True, "eval_dataset": qa_rows(20, 24)}, "load_best_model_at_end true (then"),
}


@pytest.fixture(scope="module")
def session(request, tmp_path_factory):
    """Where the checkpoint of a run lies that was cut short after its second step."""
    return tmp_path_factory.mktemp("conditions")


@pytest.fixture
def checkpoint(session, make_trainer):
    out = session / "out"
    if not out.exists():
        make_trainer(callbacks=[StopAt(2)], output_dir=str(out), **STEPS).train()
    return out / "checkpoint-2"


def refusal(trainer, checkpoint: Path | str) -> str:
    before = weights_of(trainer)
    with pytest.raises(StateError) as error:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert furthest(weights_of(trainer), before) == 0
    start, end = (
        f"Got the checkpoint {checkpoint} of a run under other conditions: ",
        ", but expected the rows, weights and options that the run was started with. Resume with those, or start anew.",
    )
    assert str(error.value).startswith(start)
    assert str(error.value).endswith(end)
    return str(error.value)[len(start) : -len(end)]


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_refused_by_its_name(make_trainer, checkpoint, what):
    options, named = CHANGES[what]
    if "load_best_model_at_end" in options:
        options = {**options, "eval_strategy": "steps", "eval_steps": 2, **STEPS}
    assert refusal(make_trainer(**options), checkpoint).startswith(named)


def test_other_weights_before_the_first_step_are_refused(make_trainer, make_model, checkpoint):
    assert refusal(make_trainer(make_model(seed=1)), checkpoint) == "other weights before the first step"


def test_other_base_weights_or_another_adapter_are_refused(make_trainer, make_model, tmp_path):
    make_trainer(peft_config=LORA, callbacks=[StopAt(2)], **STEPS).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert refusal(make_trainer(make_model(seed=1), peft_config=LORA), checkpoint) == "other base weights"
    larger = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    assert refusal(make_trainer(peft_config=larger), checkpoint) == "adapter default: lora_alpha 16 (then 8)"


def test_a_run_that_scans_nothing_has_conditions_too(make_plain_trainer, make_model, tokenizer, config, tmp_path):
    options = {"objective": "grad_ascent", "output_dir": str(tmp_path / "plain")}
    args = config(UnlearnConfig, max_steps=4, **options, **STEPS)
    UnlearnTrainer(make_model(), args, qa_rows(0, 10), processing_class=tokenizer).train()
    other = UnlearnTrainer(make_model(), args, OTHER_ROWS, processing_class=tokenizer)
    assert refusal(other, tmp_path / "plain" / "checkpoint-2") == "other forget rows"


def test_what_does_not_change_the_result_may_change(make_trainer, tmp_path):
    """Another cut of the same step, other names, places and logs; the result is that of the whole run."""
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **STEPS)
    whole.train()
    other = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": 3,
        "logging_steps": 5,
        "save_strategy": "epoch",
        "dataloader_num_workers": 1,
        "gradient_checkpointing": True,
        "card_author": "Ada Lorn",
        "output_dir": str(tmp_path / "elsewhere"),
        "eval_strategy": "epoch",
        "eval_dataset": qa_rows(20, 24),
    }
    resumed = make_trainer(**other)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.state.global_step == whole.state.global_step
    assert furthest(weights_of(resumed), weights_of(whole)) < 1e-5


def test_the_same_trainer_can_resume_what_it_began(make_trainer, tmp_path):
    whole = make_trainer(output_dir=str(tmp_path / "whole"))
    whole.train()
    trainer = make_trainer(callbacks=[StopAt(4)], **STEPS)
    trainer.train()
    trainer.save_model()
    trainer.pop_callback(StopAt)
    trainer.train(resume_from_checkpoint=True)
    assert furthest(weights_of(trainer), weights_of(whole)) == 0


def test_an_option_of_ours_is_a_condition_unless_it_is_listed(config):
    names = {option.name for option in fields(EGUPConfig)} - {option.name for option in fields(TrainingArguments)}
    listed = {"verdict"}
    listed |= {"card_author", "scan_cache_dir", "idk_answers", "model_init_kwargs", "padding_free", "proxy_model"}
    assert names & DO_NOT_MATTER == listed | ({"overwrite_output_dir"} & names)
    assert names - DO_NOT_MATTER <= options_of(config()).keys()


def test_many_changes_are_counted(make_trainer, checkpoint):
    names = ("retain_weight", "forget_weight", "wga_beta", "undial_strength", "simnpo_beta", "dpo_beta", "rmu_steering")
    changes = dict.fromkeys([*names, "satimp_beta1", "satimp_beta2", "pdu_dual_rate"], 0.75)
    said = refusal(make_trainer(**changes), checkpoint)
    assert said.count("0.75") == 8
    assert said.endswith(" and 2 more")


def test_a_checkpoint_that_says_nothing_of_its_run_is_refused(make_trainer, tmp_path):
    from safetensors.torch import save_file

    from egup_trainer.checkpointing import write_list

    make_trainer(callbacks=[StopAt(2)], **STEPS).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    save_file({"x": torch.zeros(1)}, checkpoint / "egup_state.safetensors", {"run": "0f"})
    write_list(checkpoint)
    with pytest.raises(StateError, match="does not say what its run was, but expected a checkpoint of this version"):
        make_trainer(**STEPS).train(resume_from_checkpoint=True)
