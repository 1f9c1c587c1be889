"""Task-vector negation: by hand, once, at the very end, after a resume, and through an adapter."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fixtures_trainer import furthest, logged, weights_of
from peft import LoraConfig, PeftModel
from test_objectives import UNWEIGHTED
from test_trainer import StopAt
from transformers import AutoModelForCausalLM, TrainerCallback

from egup_trainer.errors import ConfigError, ModelError, StateError
from egup_trainer.losses.task_vector import NegateTaskVector

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
TASK = {"objective": "task_vector", **UNWEIGHTED}


class Witness(TrainerCallback):
    """The weights as the last step left them, and as the end of training shows them."""

    def __init__(self):
        self.learned, self.at_end = None, None

    def on_step_end(self, args, state, control, model, **kwargs):
        self.learned = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def on_train_end(self, args, state, control, model, **kwargs):
        self.at_end = {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_the_model_goes_as_far_the_other_way(make_trainer, make_model, scale):
    witness = Witness()
    trainer = make_trainer(callbacks=[witness], task_vector_scale=scale, **TASK)
    start = dict(make_model().named_parameters())
    trainer.train()
    expected = {name: start[name] - scale * (learned - start[name]) for name, learned in witness.learned.items()}
    assert furthest(weights_of(trainer), expected) < 1e-6
    assert furthest(weights_of(trainer), witness.learned) > 1e-3
    assert furthest(witness.at_end, weights_of(trainer)) == 0  # callbacks see the model as it will be saved


def test_rows_are_learned_and_then_forgotten(make_trainer):
    trainer = make_trainer(num_train_epochs=3, **TASK)
    before = trainer.score(trainer.forget_rows).mean_nll.mean()
    trainer.train()
    learned = logged(trainer, "forget_nll")
    assert learned[-1] < learned[0] - 0.3
    assert trainer.score(trainer.forget_rows).mean_nll.mean() > before + 0.3


def test_what_is_saved_is_the_model_after_negation_and_checkpoints_are_before_it(make_trainer):
    witness = Witness()
    trainer = make_trainer(callbacks=[witness], save_strategy="steps", save_steps=6, **TASK)
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    saved, last = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, folder / "checkpoint-6"))
    assert furthest(weights_of(trainer), dict(saved.named_parameters())) == 0
    assert furthest(witness.learned, dict(last.named_parameters())) == 0


@pytest.mark.parametrize("step", [2, 6], ids=["midway", "from the last checkpoint"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(make_trainer, tmp_path, step, lora):
    options = {**TASK, "save_strategy": "steps", "save_steps": 1}

    def make(name, callbacks=None):
        peft_config = LoraConfig(**LORA) if lora else None
        return make_trainer(output_dir=str(tmp_path / name), callbacks=callbacks, peft_config=peft_config, **options)

    whole = make("whole")
    whole.train()
    make("cut", [StopAt(step)]).train()
    resumed = make("cut")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{step}"))
    assert furthest(weights_of(whole), weights_of(resumed)) == 0


def test_it_is_negated_once(make_trainer):
    trainer = make_trainer(**TASK)
    trainer.train()
    end = weights_of(trainer)
    with pytest.raises(StateError) as caught:
        trainer.train()
    assert "second training" in caught.value.got
    assert furthest(weights_of(trainer), end) == 0


def test_training_that_broke_off_is_gone_on_with(make_trainer):
    class Fault(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise RuntimeError("out of memory")

    fault = Fault()
    trainer = make_trainer(callbacks=[fault], **TASK)
    start = weights_of(trainer)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert not trainer.callback_handler.callbacks[0].is_done
    witness = Witness()
    trainer.remove_callback(fault)
    trainer.add_callback(witness)
    trainer.train()
    expected = {name: 2 * start[name] - learned for name, learned in witness.learned.items()}
    assert furthest(weights_of(trainer), expected) < 1e-6


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "embed_tokens"]], ids=["linear layers", "the embedding, too"]
)
def test_an_adapters_own_update_is_negated_and_scaled(make_trainer, targets):
    witness = Witness()
    lora = LoraConfig(**{**LORA, "target_modules": targets}, modules_to_save=["lm_head"])
    trainer = make_trainer(peft_config=lora, callbacks=[witness], task_vector_scale=0.5, **TASK)
    start = weights_of(trainer)
    trainer.train()
    updates = deltas(trainer.model)
    negated = weights_of(trainer)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            weight.copy_(witness.learned[name])
    learned = deltas(trainer.model)
    assert learned.keys() == updates.keys()
    for name, update in updates.items():
        torch.testing.assert_close(update, -0.5 * learned[name])
        assert learned[name].abs().max() > 1e-4
    head = next(name for name in start if "lm_head.modules_to_save" in name)
    torch.testing.assert_close(negated[head], start[head] - 0.5 * (witness.learned[head] - start[head]))
    plain = [name for name in start if "lora_" not in name and name != head]
    assert all(torch.equal(negated[name], start[name]) for name in plain)


def deltas(model):
    """What each adapted layer adds to its weight."""
    return {
        name: module.get_delta_weight("default").detach().clone()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight") and (module.lora_A or module.lora_embedding_A)
    }


@pytest.mark.parametrize("kind", ["dora", "bias", "trained"])
def test_an_adapter_that_is_more_than_a_fresh_product_is_refused(make_trainer, make_model, kind, tmp_path):
    options = {"dora": {"use_dora": True}, "bias": {"bias": "all"}}.get(kind, {})
    model, peft_config = make_model(), LoraConfig(**LORA, **options)
    if kind == "trained":
        first = make_trainer(model, peft_config=peft_config)
        first.train()
        first.save_model(str(tmp_path / "adapter"))
        model = PeftModel.from_pretrained(make_model(), tmp_path / "adapter", is_trainable=True)
        peft_config = None
    with pytest.raises(ModelError) as caught:
        make_trainer(model, peft_config=peft_config, **TASK)
    assert caught.value.got == "objective=task_vector with an adapter that is not a fresh LoRA adapter"


@pytest.mark.parametrize("spread", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_weights_spread_over_processes_are_refused(make_model, spread):
    enabled = {"is_fsdp_enabled": False, "is_deepspeed_enabled": False, spread: True}
    with pytest.raises(ConfigError) as caught:
        NegateTaskVector(SimpleNamespace(model=make_model(), **enabled), scale=1.0)
    assert caught.value.got == "objective=task_vector with weights spread over processes"


def test_bf16_weights_are_negated_in_float32(make_trainer, make_model):
    witness = Witness()
    trainer = make_trainer(make_model().to(torch.bfloat16), callbacks=[witness], **TASK)
    start = weights_of(trainer)
    trainer.train()
    for name, learned in witness.learned.items():
        expected = (start[name].float() - (learned.float() - start[name].float())).to(torch.bfloat16)
        assert torch.equal(weights_of(trainer)[name], expected)
