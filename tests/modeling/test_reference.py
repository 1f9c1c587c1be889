"""The reference model: the cheapest kind that serves, and that it does not change."""

import pytest
import torch

from egup_trainer.errors import ConfigError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.reference import Need, Reference, ReferenceKind, choose_reference, size_of

NLL, TOP_K, LOGITS, HIDDEN = (frozenset({need}) for need in (Need.NLL, Need.TOP_K, Need.LOGITS, Need.HIDDEN))


def step(model, batch):
    """An optimizer step large enough to be seen."""
    model.train()
    AnswerReader(model)(model, **batch).mean_nll.sum().neg().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad.sign()
    model.zero_grad()


@pytest.mark.parametrize(
    ("needs", "size", "full", "lora"),
    [
        (frozenset(), 0, "NONE", "NONE"),
        (NLL, 0, "CACHED", "CACHED"),
        (LOGITS, 0, "FROZEN_COPY", "ADAPTER_OFF"),
        (LOGITS | NLL, 0, "FROZEN_COPY", "ADAPTER_OFF"),
        (HIDDEN, 0, "FROZEN_COPY", "ADAPTER_OFF"),
        (TOP_K | NLL, 100, "TOP_K", "ADAPTER_OFF"),
        (TOP_K, 10**9, "FROZEN_COPY", "ADAPTER_OFF"),  # the copy is smaller
        (TOP_K | LOGITS, 100, "FROZEN_COPY", "ADAPTER_OFF"),
    ],
)
def test_the_cheapest_kind_that_serves(needs, size, full, lora, make_model, with_lora):
    assert choose_reference(needs, make_model(), size) is ReferenceKind[full]
    for targets in ("all-linear", ["q_proj", "embed_tokens"], ["embed_tokens"]):
        model = with_lora(make_model(), trained=False, targets=targets)
        assert choose_reference(needs, model, size) is ReferenceKind[lora]


@pytest.mark.parametrize("factor", ["lora_B", "lora_embedding_A"])
def test_an_adapter_with_one_trained_layer_is_part_of_the_reference(factor, make_model, with_lora):
    model = with_lora(make_model(), trained=False, targets=["q_proj", "embed_tokens"])
    last = [parameter for name, parameter in model.named_parameters() if factor in name][-1]
    last.data[0, 0] = 1e-3
    assert choose_reference(LOGITS, model) is ReferenceKind.FROZEN_COPY


def test_weights_that_zero_3_has_spread_are_not_copied(make_model):
    """A copy would hold a share of them, and no engine would gather it."""
    model = make_model()
    size = size_of(model)
    for weight in model.parameters():
        weight.ds_numel, weight.data = weight.numel(), torch.empty(0)  # as DeepSpeed's zero.Init leaves them
    assert size_of(model) == size
    assert choose_reference(TOP_K, model, size - 1) is ReferenceKind.TOP_K
    with pytest.raises(ConfigError, match="a model that DeepSpeed ZeRO-3 spread over the processes as it was loaded"):
        choose_reference(LOGITS, model)


def test_trained_biases_of_the_base_model_are_not_switched_off(make_model, with_lora):
    model = with_lora(make_model("gpt2"), trained=False, bias="all")
    assert choose_reference(LOGITS, model) is ReferenceKind.FROZEN_COPY


@pytest.mark.parametrize("lora", ["none", "fresh", "trained", "head"])
def test_the_reference_is_the_initial_model_whatever_the_model_learns(lora, lively, with_lora, rows, pad, plain_logps):
    model, batch = lively(), pad(rows)
    if lora != "none":
        head = {"modules_to_save": ["lm_head"]} if lora == "head" else {}
        model = with_lora(model, trained=lora == "trained", **head)
    reader = AnswerReader(model, hidden_layer=1)
    with torch.no_grad():
        _, logits = plain_logps(model, batch)
        hidden = reader(model, **batch, with_hidden=True).hidden
    kind = choose_reference(LOGITS, model)
    assert kind is (ReferenceKind.ADAPTER_OFF if lora in ("fresh", "head") else ReferenceKind.FROZEN_COPY)
    reference = Reference(kind, model, reader)
    assert (reference.frozen_copy is None) == (kind is ReferenceKind.ADAPTER_OFF)
    for _ in range(2):
        step(model, batch)
        required = [weight.requires_grad for weight in model.parameters()]
        with torch.no_grad():
            learned = reader(model, **batch, keep_logits=True).logits
        read = reference.read(model, **batch, needs=LOGITS | HIDDEN)
        torch.testing.assert_close((read.logits, read.hidden), (logits, hidden), atol=1e-5, rtol=1e-5)
        assert not read.logits.requires_grad
        assert (learned - logits).abs().max() > 0.1
        with torch.no_grad():
            torch.testing.assert_close(reader(model, **batch, keep_logits=True).logits, learned)
        assert [weight.requires_grad for weight in model.parameters()] == required
    assert reference.read(model, **batch, needs=HIDDEN).logits is None
    assert reference.read(model, **batch, needs=LOGITS).hidden is None


def test_the_copy_cannot_learn_and_has_no_dropout(make_model):
    model = make_model("gpt2").train()
    frozen = Reference(ReferenceKind.FROZEN_COPY, model, AnswerReader(model)).frozen_copy
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for kind in (ReferenceKind.NONE, ReferenceKind.CACHED):
        assert Reference(kind, model, AnswerReader(model)).frozen_copy is None
