"""Rows that share a line are read as rows that stand alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

from egup_trainer.errors import ModelError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.memory.packing import Packer, fill_lines, packed, padded

FAMILIES = ["llama", "qwen3", "gemma3", "gpt2", "granite", "cohere"]
OTHERS = {
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=256, hidden_size=32, n_layer=2, n_head=4)),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=2, state_size=4, use_mambapy=False)
    ),
}
"""Models that know nothing of position ids: by a bias on distances, by a state that runs on."""


def batch_of(*lengths, vocabulary=256):
    """Random rows, padded on the right, of which all is scored."""
    width = max(lengths)
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, vocabulary, mask.shape, generator=torch.Generator().manual_seed(sum(lengths))) * mask
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}


def layout_of(model, batch, **options):
    return Packer(model, **options)(model, batch["input_ids"], batch["attention_mask"])


def shape_of(layout):
    return tuple(layout.inputs["input_ids"].shape)


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


# Where rows go


def test_the_longest_rows_first_each_to_the_first_line_with_room():
    assert fill_lines([4, 7, 3, 5, 2, 1], width=8) == [[1, 5], [3, 2], [0, 4]]
    assert fill_lines([3, 3], width=3) == [[0], [1]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_each_row_has_one_line_and_no_line_is_too_full(lengths, times):
    width = max(lengths) * times
    lines = fill_lines(lengths, width)
    assert sorted(row for line in lines for row in line) == list(range(len(lengths)))
    assert max(sum(lengths[row] for row in line) for line in lines) <= width


def test_a_line_holds_its_rows_in_order_and_what_is_left_stands_alone():
    ids = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 4, 0]])
    found = packed(ids, torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]), [[0, 2], [1]])
    assert found.inputs["input_ids"].tolist() == [[5, 6, 7, 9, 4], [8, 0, 0, 0, 0]]
    assert found.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 0, 0, 0]]
    assert found.inputs["attention_mask"] is None
    assert found.places[0].tolist() == [0, 1, 2]
    assert found.places[1, 0].item() == 5
    assert found.places[2, :2].tolist() == [3, 4]
    assert (found.size, padded(ids, torch.ones_like(ids)).size) == (10, 9)


def test_a_filled_token_that_is_the_padding_token_is_kept():
    """Masks come from lengths: a 0 within a row is a token."""
    ids = torch.tensor([[0, 0, 3], [0, 0, 0]])
    found = packed(ids, torch.tensor([[1, 1, 1], [1, 0, 0]]), [[0, 1]])
    assert found.inputs["position_ids"].tolist() == [[0, 1, 2, 0]]


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [
        ((9, 9, 9), (3, 9)),  # nothing to gain
        ((9,), (1, 9)),
        ((9, 5, 4), (2, 9)),  # 5 and 4 share a line
        ((9, 6, 6, 6), (1, 27)),  # no two fit into 9; 36 * (192 + 9) = 7,236 > 27 * (192 + 27) = 5,913
        ((60, 40, 40, 40), (2, 100)),  # 240 * (192 + 60) = 60,480, 180 * (192 + 180) = 66,960, 200 * 292 = 58,400
        ((60, 58, 58), (3, 60)),  # 180 * (192 + 60) = 45,360 < 176 * (192 + 176) = 64,768: attention costs more
    ],
)
def test_lines_are_as_long_as_is_cheapest(lively, lengths, shape):
    assert shape_of(layout_of(lively(), batch_of(*lengths))) == shape  # of width 32: 6 * 32 = 192


def test_flash_attention_takes_one_line_without_padding(lively):
    model, batch = lively(), batch_of(60, 58, 58)
    packer = Packer(model, padding_free=True)
    assert shape_of(packer(model, batch["input_ids"], batch["attention_mask"])) == (3, 60)
    model.config._attn_implementation = "flash_attention_2"
    flash = Packer(model, padding_free=True)
    model.config._attn_implementation = "sdpa"  # which the model has; the trial is of its answers
    assert shape_of(flash(model, batch["input_ids"], batch["attention_mask"])) == (1, 176)


# What the model makes of them


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_are_read_as_padded_ones(family, attention, lora, lively, with_lora):
    model = lively(family)
    model.set_attn_implementation(attention)
    model = with_lora(model) if lora else model
    batch = batch_of(30, 5, 22, 9, 17, vocabulary=len(model.get_input_embeddings().weight))  # Gemma's window is 16
    noise = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(1)) * batch["attention_mask"][-2:, :, None]
    packing, plain = AnswerReader(model, padding_free=True), AnswerReader(model, padding_free=False)
    options = {"with_hidden": True, "embedding_noise": noise}
    found, expected = (reader(model, **batch, **options) for reader in (packing, plain))
    assert (expected.positions, found.positions < 100) == (150, True)  # of 83 tokens
    for name in ("token_logps", "features", "hidden"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-5, rtol=1e-4)
    weights = torch.linspace(-1, 2, len(found.token_logps))
    values = ((weights * out.token_logps).sum() + out.features.pow(2).sum() for out in (found, expected))
    found, expected = (gradients(model, value) for value in values)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("family", OTHERS)
def test_rows_are_padded_for_a_model_that_would_mix_them(family):
    torch.manual_seed(0)
    model, batch = OTHERS[family]().eval(), batch_of(9, 5, 4)
    assert shape_of(layout_of(model, batch)) == (3, 9)
    with pytest.raises(ModelError) as error:
        layout_of(model, batch, padding_free=True)
    assert str(error.value) == (
        f"got padding_free with {type(model).__name__}; expected a model that keeps apart the rows that follow each "
        "other, by their position ids; leave out --padding_free"
    )


class Leaky(nn.Module):
    """Takes position ids, and lets each token see all before it in its line."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids, attention_mask=None, position_ids=None, **options):
        return self.model(input_ids, attention_mask=torch.ones_like(input_ids), position_ids=position_ids, **options)


def test_a_model_that_takes_position_ids_but_mixes_rows_is_found_out(lively):
    batch = batch_of(9, 5, 4)
    assert shape_of(layout_of(lively(), batch)) == (2, 9)
    assert shape_of(layout_of(Leaky(lively()), batch)) == (3, 9)


class Trickle(nn.Module):
    """Lets a little of what stands before a row in its line into it: far less than rounding to bfloat16 changes."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids, attention_mask=None, position_ids=None, **options):
        out = self.model(input_ids, attention_mask=attention_mask, position_ids=position_ids, **options)
        out.logits = out.logits + 1e-4 * out.logits.cumsum(dim=1)
        return out


def test_a_model_that_mixes_rows_a_little_is_found_out_too(lively):
    assert shape_of(layout_of(Trickle(lively()), batch_of(9, 5, 4))) == (3, 9)


def test_rows_of_a_model_that_attends_in_chunks_are_padded(lively):
    model, batch = lively(), batch_of(9, 5, 4)
    model.config.attention_chunk_size = 8192
    assert shape_of(layout_of(model, batch)) == (3, 9)


def test_the_trial_is_made_once_alike_for_any_rows_and_without_dropout(make_model):
    model = make_model("gpt2").train()  # has dropout
    calls = []
    model.register_forward_hook(lambda module, *_: calls.append((module.training, torch.is_grad_enabled())))
    packer = Packer(model)
    state = torch.get_rng_state()
    for batch in (batch_of(9), batch_of(9, 5, 4)):  # a process with nothing to pack calls the model as often as others
        packer(model, batch["input_ids"], batch["attention_mask"])
    assert calls == [(False, False)] * 3
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
