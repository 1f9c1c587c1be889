"""Gradient norms: those of plain autograd over all weights, whatever the batch, adapters and what was left behind."""

import numpy as np
import pytest
import torch
from fixtures_evaluation import (
    invented_sets,
    lively_model,
    numbers_by_name,
    plain_gradient_norm,
    samples_of,
    with_adapter,
)
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from egup_trainer.data.schema import IGNORE_INDEX
from egup_trainer.errors import ModelError
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.modeling.loading import load_model


@pytest.fixture
def lora(tokenizer):
    """A model whose adapter has learned something; base weights are frozen."""
    return with_adapter(lively_model(tokenizer), std=0.1)


def score(model, tokenizer, batch_size=3, with_norms=True):
    options = ScoringOptions(batch_size=batch_size, with_gradient_norms=with_norms, progress=False)
    return score_sets(model, tokenizer, invented_sets(new_tokens=0), options)


def norms(scores) -> list[float | None]:
    return [row.gradient_norm for each in scores.values() for row in each.samples.values()]


def plain_norms(model, tokenizer) -> list[float | None]:
    """Of forget and holdout rows; retain rows are neither members nor non-members."""
    forget, holdout, retain = invented_sets(new_tokens=0)
    found = []
    for row_set in (forget, holdout):
        for row in row_set.rows:
            samples = samples_of(row, tokenizer, max_length=row_set.max_length)
            if row.prompt:  # the token that closes an answer does not count; a plain text has none
                samples[-1][1][-1] = IGNORE_INDEX
            found.append(plain_gradient_norm(model, samples))
    return [*found, *[None] * len(retain.rows)]


def assert_same_norms(found, expected, rtol=1e-5):
    assert [norm is None for norm in found] == [norm is None for norm in expected]
    np.testing.assert_allclose(*([norm for norm in each if norm is not None] for each in (found, expected)), rtol=rtol)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_norms_are_those_of_plain_autograd_in_one_piece_or_in_several(tokenizer, name):
    """Of tied weights, too, which count once (gpt2, gemma3)."""
    model = lively_model(tokenizer, name)
    holdout = invented_sets()[1]
    assert len(samples_of(holdout.rows[0], tokenizer, max_length=holdout.max_length)) > 2
    assert_same_norms(norms(score(model, tokenizer)), plain_norms(model, tokenizer))


def test_norms_do_not_depend_on_the_batch_size(model, tokenizer):
    first = score(model, tokenizer, batch_size=1)
    for batch_size in (3, 16):
        assert norms(score(model, tokenizer, batch_size)) == norms(first)


def test_the_other_numbers_are_those_of_a_run_without_norms(model, tokenizer):
    found = numbers_by_name(score(model, tokenizer))
    plain = numbers_by_name(score(model, tokenizer, with_norms=False))
    assert {name for name in found if "gradient norm" not in name} == plain.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_nothing_is_left_behind_and_nothing_that_was_left_counts(model, tokenizer):
    expected = norms(score(model, tokenizer))
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 > 0)
        parameter.grad = torch.full_like(parameter, float(number)) if number % 2 else None
    required = [parameter.requires_grad for parameter in model.parameters()]
    assert norms(score(model, tokenizer)) == expected
    assert [parameter.requires_grad for parameter in model.parameters()] == required
    for number, parameter in enumerate(model.parameters()):
        if number % 2:
            assert (parameter.grad == number).all()
        else:
            assert parameter.grad is None


def test_a_caller_may_have_switched_gradients_off(model, tokenizer):
    expected = norms(score(model, tokenizer))
    with torch.no_grad():
        assert norms(score(model, tokenizer)) == expected
        assert not torch.is_grad_enabled()


def test_dropout_is_off(tokenizer):
    model = lively_model(tokenizer, "gpt2")
    expected = norms(score(model, tokenizer))
    assert norms(score(model.train(), tokenizer)) == expected
    assert model.training


def test_with_adapters_on_all_weights_count_the_frozen_ones_too(lora, tokenizer):
    required = {name for name, parameter in lora.named_parameters() if parameter.requires_grad}
    assert required
    assert all("lora_" in name for name in required)
    found = norms(score(lora, tokenizer))
    assert_same_norms(found, plain_norms(lora, tokenizer))
    with lora.disable_adapter():
        assert abs(plain_norms(lora, tokenizer)[0] / found[0] - 1) > 0.01
    assert {name for name, parameter in lora.named_parameters() if parameter.requires_grad} == required


def test_activation_checkpointing_changes_nothing(model, tokenizer):
    expected = norms(score(model, tokenizer))
    model.gradient_checkpointing_enable()
    assert_same_norms(norms(score(model.train(), tokenizer)), expected)


# 4-bit weights


@pytest.fixture
def four_bit(tokenizer, tmp_path):
    """A model of 4-bit linear layers on the CPU; embedding, head and norms are in float32."""
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=3, initializer_range=0.1, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    return load_model(str(tmp_path), quantization_config=quantization)


def dequantized(model, tokenizer):
    """The same model with 4-bit weights written out in float32; these require no gradient."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    config = LlamaConfig(**{**model.config.to_dict(), "quantization_config": None})
    twin = LlamaForCausalLM(config).eval()
    weights = {name: value for name, value in model.state_dict().items() if "weight." not in name}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            weights[f"{name}.weight"] = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    twin.load_state_dict(weights)
    return twin


def test_of_4_bit_weights_the_norm_is_that_over_the_others(four_bit, tokenizer):
    linear = {name for name, parameter in four_bit.named_parameters() if not parameter.is_floating_point()}
    assert len(linear) == 7 * 3
    scores = score(four_bit, tokenizer)
    twin = dequantized(four_bit, tokenizer)
    for name, parameter in list(twin.named_parameters()):  # what is whole numbers in the other counts nowhere
        if name in linear:
            parent, _, leaf = name.rpartition(".")
            module = twin.get_submodule(parent)
            del module._parameters[leaf]
            module.register_buffer(leaf, parameter.data)
    assert_same_norms(norms(scores), plain_norms(twin, tokenizer), rtol=1e-4)
    for row_set, plain in zip(scores.values(), score(twin, tokenizer).values(), strict=True):
        for row, other in zip(row_set.samples.values(), plain.samples.values(), strict=True):
            np.testing.assert_allclose(row.answers[0].token_logps, other.answers[0].token_logps, atol=1e-4)


def test_norms_of_weights_that_are_repacked_are_refused(four_bit, tokenizer):
    four_bit.model.layers[1].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match="repacked"):
        score(four_bit, tokenizer)
