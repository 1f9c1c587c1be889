"""Halfway to the model before: the weights, what they know, and models that have no halfway."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import make_tiny_model
from fixtures_audit import FORGET, RETAIN, assert_same_weights, target, taught, weights_of
from fixtures_evaluation import with_adapter

from egup_trainer.audit.attack import Finding
from egup_trainer.audit.merging import merged_model, merging
from egup_trainer.errors import ModelError


def attack(model, before, tokenizer):
    return merging(replace(target(model, tokenizer), load_before=lambda: before)).metrics


@pytest.fixture(scope="module")
def knowing(tokenizer):
    return taught(tokenizer, [*FORGET, *RETAIN])


def test_weights_are_halfway_and_the_two_models_stay(tokenizer):
    model, before = make_tiny_model(tokenizer), make_tiny_model(tokenizer, seed=1)
    weights, others = weights_of(model), weights_of(before)
    merged = weights_of(merged_model(model, before))
    for name, weight in weights.items():
        torch.testing.assert_close(merged[name], (weight + others[name]) / 2)
    assert_same_weights(model, weights)
    assert_same_weights(before, others)
    quarter = weights_of(merged_model(model, before, share=0.25))
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(quarter[name], 0.75 * weights[name] + 0.25 * others[name])


def test_adapters_are_merged_first(tokenizer):
    base = make_tiny_model(tokenizer)
    model = with_adapter(copy.deepcopy(base))
    merged = weights_of(merged_model(model, base))
    whole = weights_of(copy.deepcopy(model).merge_and_unload())
    for name, weight in weights_of(base).items():
        torch.testing.assert_close(merged[name], (weight + whole[name]) / 2, atol=1e-6, rtol=1e-5)
    assert model.peft_config.keys() == {"default"}


def test_a_step_past_the_rows_is_undone_halfway_and_a_model_that_never_saw_them_stays_ignorant(knowing, tokenizer):
    """The output layer of the hiding model is turned round: halfway back, a quarter of the one before is left."""
    hiding = copy.deepcopy(knowing)
    with torch.no_grad():
        hiding.lm_head.weight.mul_(-0.5)
    models = {"hiding": hiding, "never": taught(tokenizer, RETAIN)}
    found = {name: attack(each, knowing, tokenizer) for name, each in models.items()}
    given = target(hiding, tokenizer)
    start = given.score(given.row_set("forget"))["forget"].samples.values()
    assert max(row.answers[0].probability for row in start) < 0.01
    halfway = {name: each["halfway_forget_extraction_strength"].value for name, each in found.items()}
    assert halfway["hiding"] > 0.9
    assert halfway["never"] < halfway["hiding"] / 2
    assert list(found["hiding"]) == [
        "halfway_forget_probability",
        "halfway_forget_extraction_strength",
        "halfway_retain_probability",
        "halfway_retain_extraction_strength",
    ]
    assert found["hiding"]["halfway_retain_probability"].higher_is_better is True
    assert found["hiding"]["halfway_forget_probability"].higher_is_better is None


def test_models_without_a_halfway_are_refused_or_told(tokenizer, make_model):
    reason = "needs the model before unlearning (--model_before)"
    assert merging(target(make_model(), tokenizer)) == Finding(reason=reason)
    with pytest.raises(ModelError) as error:
        attack(make_model(), make_model("gpt2"), tokenizer)
    assert error.value.got.startswith("a model before unlearning without the weights model.")
    quantized = make_model()
    quantized.is_quantized = True
    found = merging(replace(target(make_model(), tokenizer), load_before=lambda: quantized))
    assert found == Finding(reason="the weights of a model are quantized, and cannot be averaged")
