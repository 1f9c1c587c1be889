"""Log-probabilities of answer tokens and their gradient, compared with the plain way."""

from types import SimpleNamespace

import pytest
import torch

from egup_trainer.modeling.memory import answer_logps as module
from egup_trainer.modeling.memory.answer_logps import LogitTransform, answer_logps

TRANSFORMS = [LogitTransform(), LogitTransform(0.25), LogitTransform(cap=5.0), LogitTransform(3.0, 30.0)]


def plain(raw, targets, transform):
    logits = raw.float() * transform.multiplier
    if transform.cap:
        logits = transform.cap * torch.tanh(logits / transform.cap)
    return logits.log_softmax(-1)[torch.arange(len(raw)), targets]


def both(raw, targets, transform, weights):
    """Values and gradients, ours and the plain way's; `leaf * 1.0` since a leaf cannot be overwritten."""
    found = []
    for function in (answer_logps, plain):
        leaf = raw.clone().requires_grad_()
        values = function(leaf * 1.0, targets, transform)
        (values * weights).sum().backward()
        found.append((values.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("chunk", [1, 40, 1 << 22], ids=["token by token", "ragged", "whole"])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_values_and_gradients_equal_the_plain_way(transform, chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    raw = 8 * torch.randn(7, 13, generator=generator)
    targets = torch.randint(13, (7,), generator=generator)
    (ours, our_gradient), (expected, gradient) = both(raw, targets, transform, torch.linspace(-2, 3, 7))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_gradient, gradient, atol=1e-6, rtol=1e-5)
    assert gradient.abs().max() > 0.1


def test_half_precision_is_summed_in_float32():
    raw = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0)).bfloat16()
    (ours, our_gradient), (expected, gradient) = both(raw, torch.arange(5), LogitTransform(), torch.ones(5))
    assert (ours.dtype, our_gradient.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(our_gradient, gradient)


def test_the_gradient_overwrites_the_logits_and_a_second_backward_pass_is_refused():
    raw = torch.randn(3, 8, requires_grad=True) * 1.0
    addresses = []
    raw.register_hook(lambda gradient: addresses.append(gradient.data_ptr()))
    values = answer_logps(raw, torch.tensor([1, 2, 3]), LogitTransform())
    values.sum().backward(retain_graph=True)
    assert addresses == [raw.data_ptr()]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        values.sum().backward()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, LogitTransform(1.0, None)),
        ({"logit_scale": 0.0625}, LogitTransform(0.0625, None)),
        ({"logits_scaling": 8.0}, LogitTransform(0.125, None)),
        ({"final_logit_softcapping": 30.0}, LogitTransform(1.0, 30.0)),
        ({"final_logit_softcapping": None, "lm_head_multiplier": 0.5}, LogitTransform(0.5, None)),
    ],
)
def test_the_transform_of_a_configuration(config, expected):
    assert LogitTransform.of(SimpleNamespace(**config)) == expected
