"""The gradient of a tied embedding, against autograd's own way."""

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


def gradient(weight, mode, padding=None, bias=None):
    """Of a small language model with the weight at both ends."""
    weight.grad = None
    with mode:
        hidden = embedding(IDS, weight, padding) * 1.5
        logits = linear(torch.tanh(hidden), weight, bias)
    logits.log_softmax(-1)[..., 2].sum().backward()
    return weight.grad


def test_by_hand():
    weight = nn.Parameter(torch.tensor([[1.0], [2.0], [3.0]]))
    with TiedGradient():
        logits = linear(embedding(torch.tensor([1]), weight), weight)  # x_1 x_i
    (logits * torch.tensor([1.0, 0.0, 10.0])).sum().backward()
    assert weight.grad.flatten().tolist() == [2, 1 + 10 * 3, 10 * 2]


@pytest.mark.parametrize("padding", [None, 1], ids=["no padding", "padding"])
def test_equals_autograd(weight, padding):
    ours = gradient(weight, TiedGradient(), padding).clone()
    torch.testing.assert_close(ours, gradient(weight, nullcontext(), padding), rtol=1e-6, atol=1e-7)


def test_accumulates_over_passes_of_their_own(weight):
    once = gradient(weight, TiedGradient()).clone()
    weight.grad = None
    passes = []
    for _ in range(2):
        with TiedGradient():
            passes.append(linear(torch.tanh(embedding(IDS, weight) * 1.5), weight))
    sum(each.log_softmax(-1)[..., 2].sum() for each in passes).backward()
    torch.testing.assert_close(weight.grad, 2 * once)


def test_a_graph_that_is_kept_gives_the_same_again(weight):
    with TiedGradient():
        loss = linear(embedding(IDS, weight), weight).pow(2).sum()
    loss.backward(retain_graph=True)
    once = weight.grad.clone()
    loss.backward()
    assert torch.equal(weight.grad, 2 * once)


def test_a_lookup_whose_logits_nobody_needs(weight):
    with TiedGradient():
        hidden = embedding(IDS, weight)
        linear(hidden, weight)
    hidden.sum().backward()
    assert weight.grad[:, 0].tolist() == [1, 2, 0, 0, 3, 0]


def test_autocast_projects_in_half_precision_and_adds_in_float32(weight):
    found = []
    for mode in (TiedGradient(), nullcontext()):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradient(weight, mode).clone())
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: gradient(weight, TiedGradient(), bias=torch.ones(6)),
        lambda weight: linear(embedding(IDS, weight, max_norm=1.0), weight).sum(),
        lambda weight: linear(embedding(IDS, weight, scale_grad_by_freq=True), weight).sum(),
        lambda weight: linear(embedding(IDS, copy.deepcopy(weight)), weight).sum(),
    ],
    ids=["bias", "max_norm", "scale_grad_by_freq", "another weight"],
)
def test_what_it_does_not_know_runs_as_ever(weight, change, monkeypatch):
    monkeypatch.setattr("egup_trainer.modeling.memory.tied_gradient._Projection.apply", None)
    with TiedGradient():
        change(weight)


def test_a_projection_of_hidden_states_without_a_gradient(weight):
    with TiedGradient():
        linear(embedding(IDS, weight).detach(), weight).sum().backward()
    ours, weight.grad = weight.grad, None
    linear(embedding(IDS, weight).detach(), weight).sum().backward()
    torch.testing.assert_close(ours, weight.grad)


def test_a_gradient_of_something_else_first_leaves_nothing_behind(weight):
    once = gradient(weight, TiedGradient()).clone()
    scale, weight.grad = torch.tensor(1.0, requires_grad=True), None
    with TiedGradient():
        loss = linear(torch.tanh(embedding(IDS, weight) * 1.5) * scale, weight).log_softmax(-1)[..., 2].sum()
    torch.autograd.grad(loss, [scale], retain_graph=True)
    loss.backward()
    torch.testing.assert_close(weight.grad, once)


def test_negative_padding_counts_from_the_end(weight):
    ours = gradient(weight, TiedGradient(), padding=-2).clone()
    torch.testing.assert_close(ours, gradient(weight, nullcontext(), padding=4))


def test_checkpointed_as_a_whole(weight):
    def forward(ids):
        with TiedGradient():
            return linear(torch.tanh(embedding(ids, weight)), weight).log_softmax(-1)[..., 2].sum()

    checkpoint(forward, IDS, use_reentrant=False).backward()
    ours, weight.grad = weight.grad, None
    forward(IDS).backward()
    torch.testing.assert_close(ours, weight.grad)


def test_projections_called_by_name_keep_their_bias(weight):
    with TiedGradient():
        hidden = embedding(IDS, weight)
        logits = linear(input=hidden, weight=weight, bias=torch.ones(6))
        same = linear(hidden, weight, bias=torch.ones(6))
    torch.testing.assert_close(logits, hidden @ weight.t() + 1)
    assert torch.equal(logits, same)
