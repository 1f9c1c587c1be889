"""The gradient of a tied embedding, compared with autograd's own."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.functional import embedding, linear
from torch.utils.checkpoint import checkpoint

from egup_trainer.modeling.memory.tied_gradient import TiedGradient

IDS = torch.tensor([[1, 4, 1], [0, 4, 4]])


@pytest.fixture
def weight():
    return nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))


def gradient_of(weight, compute, mode):
    """The gradient that `compute` gives within a mode."""
    weight.grad = None
    with mode:
        loss = compute(weight)
    loss.backward()
    return weight.grad.clone()


def language_model(weight, padding=None):
    hidden = embedding(IDS, weight, padding) * 1.5
    return linear(torch.tanh(hidden), weight).log_softmax(-1)[..., 2].sum()


def in_bfloat16(weight):
    with torch.autocast("cpu", torch.bfloat16):
        return language_model(weight)


def unused_logits(weight):
    hidden = embedding(IDS, weight)
    linear(hidden, weight)
    return hidden.sum()


def another_gradient_first(weight):
    scale = torch.tensor(1.0, requires_grad=True)
    loss = linear(torch.tanh(embedding(IDS, weight) * 1.5) * scale, weight).log_softmax(-1)[..., 2].sum()
    torch.autograd.grad(loss, [scale], retain_graph=True)
    return loss


CASES = {
    "language model": language_model,
    "padding": lambda weight: language_model(weight, 1),
    "negative padding": lambda weight: language_model(weight, -2),
    "autocast": in_bfloat16,
    "unused logits": unused_logits,
    "detached": lambda weight: linear(embedding(IDS, weight).detach(), weight).sum(),
    "another gradient first": another_gradient_first,
    "bias by name": lambda weight: linear(input=embedding(IDS, weight), weight=weight, bias=torch.ones(6)).pow(2).sum(),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_autograd(name, weight):
    ours, expected = (gradient_of(weight, CASES[name], mode) for mode in (TiedGradient(), nullcontext()))
    assert ours.dtype == torch.float32
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_checkpointed_pass_equals_autograd(weight):
    def forward(weight):
        with TiedGradient():
            return language_model(weight)

    ours = gradient_of(weight, lambda weight: checkpoint(forward, weight, use_reentrant=False), nullcontext())
    torch.testing.assert_close(ours, gradient_of(weight, language_model, nullcontext()), rtol=1e-5, atol=1e-6)


def test_passes_accumulate_and_a_kept_graph_gives_the_same_again(weight):
    once = gradient_of(weight, language_model, TiedGradient())
    weight.grad, losses = None, []
    for _ in range(2):
        with TiedGradient():
            losses.append(language_model(weight))
    sum(losses).backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, 2 * once)
    sum(losses).backward()
    torch.testing.assert_close(weight.grad, 4 * once)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: linear(embedding(IDS, weight), weight, torch.ones(6)),
        lambda weight: linear(embedding(IDS, weight, max_norm=1.0), weight),
        lambda weight: linear(embedding(IDS, weight, scale_grad_by_freq=True), weight),
        lambda weight: linear(embedding(IDS, copy.deepcopy(weight)), weight),
    ],
    ids=["bias", "max_norm", "scale_grad_by_freq", "another weight"],
)
def test_other_calls_are_left_to_torch(weight, change, monkeypatch):
    monkeypatch.setattr("egup_trainer.modeling.memory.tied_gradient._Projection.apply", None)
    with TiedGradient():
        change(weight)
