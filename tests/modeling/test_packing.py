"""Rows that share a line are read like rows alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

from egup_trainer.errors import ModelError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.memory.packing import Packer, fill_lines, packed, padded
from modeling.conftest import assert_same_gradients, gradients

FAMILIES = ["llama", "qwen3", "gemma3", "gpt2", "granite", "cohere"]
OTHERS = {
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=256, hidden_size=32, n_layer=2, n_head=4)),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=2, state_size=4, use_mambapy=False)
    ),
}
"""Models without position ids: with a bias on distances, and with a state that continues over rows."""


def batch_of(*lengths, vocabulary=256):
    """Random rows, padded on the right, of which all tokens are scored."""
    width = max(lengths)
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, vocabulary, mask.shape, generator=torch.Generator().manual_seed(sum(lengths))) * mask
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}


def layout_of(model, batch, **options):
    return Packer(model, **options)(model, batch["input_ids"], batch["attention_mask"])


def shape_of(layout):
    return tuple(layout.inputs["input_ids"].shape)


# Layouts


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_each_row_has_one_line_and_no_line_is_too_full(lengths, times):
    width = max(lengths) * times
    lines = fill_lines(lengths, width)
    assert sorted(row for line in lines for row in line) == list(range(len(lengths)))
    assert max(sum(lengths[row] for row in line) for line in lines) <= width


def test_lines_and_layouts_by_hand():
    assert fill_lines([4, 7, 3, 5, 2, 1], width=8) == [[1, 5], [3, 2], [0, 4]]  # longest first, first line with room
    ids = torch.tensor([[5, 6, 0], [8, 0, 0], [9, 4, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])  # a 0 within a row is a token
    found = packed(ids, mask, [[0, 2], [1]])
    assert found.inputs["input_ids"].tolist() == [[5, 6, 0, 9, 4], [8, 0, 0, 0, 0]]
    assert found.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 0, 0, 0]]
    assert found.inputs["attention_mask"] is None
    assert [found.indices[row, : mask[row].sum()].tolist() for row in range(3)] == [[0, 1, 2], [5], [3, 4]]
    assert (found.size, padded(ids, mask).size) == (10, 9)


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
    model.config._attn_implementation = "flash_attention_2"
    flash = Packer(model, padding_free=True)
    model.config._attn_implementation = "sdpa"  # which the model has; the trial needs its logits
    assert shape_of(flash(model, batch["input_ids"], batch["attention_mask"])) == (1, 176)


# What the model reads


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
    assert_same_gradients(found, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("family", OTHERS)
def test_rows_are_padded_for_a_model_that_would_mix_them(family):
    torch.manual_seed(0)
    model, batch = OTHERS[family]().eval(), batch_of(9, 5, 4)
    assert shape_of(layout_of(model, batch)) == (3, 9)
    with pytest.raises(ModelError) as caught:
        layout_of(model, batch, padding_free=True)
    assert caught.value.got == f"padding_free with {type(model).__name__}"
    assert "--padding_free" in caught.value.fix


class Mixing(nn.Module):
    """Takes position ids, and lets each token see all tokens before it in its line: as text, or just a little."""

    def __init__(self, model, leak=None):
        super().__init__()
        self.model, self.config, self.leak = model, model.config, leak

    def forward(self, input_ids, attention_mask=None, position_ids=None, **options):
        if self.leak is None:
            attention_mask = torch.ones_like(input_ids)
        out = self.model(input_ids, attention_mask=attention_mask, position_ids=position_ids, **options)
        out.logits = out.logits + (self.leak or 0) * out.logits.cumsum(dim=1)
        return out


def in_chunks(model):
    model.config.attention_chunk_size = 8192
    return model


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda model: model, (2, 9)),
        (Mixing, (3, 9)),
        (lambda model: Mixing(model, leak=1e-4), (3, 9)),  # far less than rounding to bfloat16 changes
        (in_chunks, (3, 9)),
    ],
    ids=["separate rows", "mixed rows", "slightly mixed rows", "attention in chunks"],
)
def test_a_model_that_takes_position_ids_but_mixes_rows_is_detected(change, shape, lively):
    assert shape_of(layout_of(change(lively()), batch_of(9, 5, 4))) == shape


def test_the_trial_is_made_once_for_any_rows_and_without_dropout(make_model):
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
