"""CLReg: values by hand, what draws an anchor and what pushes it, and that only the anchor moves."""

from math import cos, exp, log, sin

import pytest
import torch

from egup_trainer.components.clreg import contrastive_loss, retain_anchor_loss

YES = torch.tensor([[True]])


def units(*angles):
    """Unit vectors in the plane."""
    return torch.tensor([[cos(angle), sin(angle)] for angle in angles])


def loss_at(anchor, positives=(0.0,), negatives=(1.5,), temperature=0.2):
    mask = torch.ones(1, len(positives), dtype=torch.bool)
    return contrastive_loss(units(anchor), units(*positives), mask, units(*negatives), temperature).item()


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_one_positive_and_two_negatives(temperature):
    up, down, away = exp(cos(0.3) / temperature), exp(cos(1.2) / temperature), exp(cos(2.0) / temperature)
    expected = -log(up / (up + down + away))
    assert loss_at(0.3, (0.0,), (1.5, 2.3), temperature) == pytest.approx(expected, rel=1e-4)


def test_each_positive_competes_with_all_positives_and_negatives():
    first, second, negative = (exp(cos(angle) / 0.5) for angle in (0.3, 0.7, 1.4))
    total = first + second + negative
    expected = -(log(first / total) + log(second / total)) / 2
    assert loss_at(0.0, (0.3, 0.7), (1.4,), 0.5) == pytest.approx(expected, rel=1e-5)


def test_the_mask_says_whose_positives_they_are():
    anchors, positives, negatives = units(0.0, 1.0), units(0.0, 1.0, 2.0), units(3.0)
    mask = torch.tensor([[False, True, True], [True, False, False]])
    values = contrastive_loss(anchors, positives, mask, negatives, 0.2)
    assert values.tolist() == pytest.approx([loss_at(0.0, (1.0, 2.0), (3.0,)), loss_at(1.0, (0.0,), (3.0,))], rel=1e-4)


def test_lower_near_the_positive_and_higher_near_the_negative():
    assert loss_at(0.1) < loss_at(0.4) < loss_at(0.9)
    assert loss_at(0.4, negatives=(0.6,)) > loss_at(0.4, negatives=(1.5,)) > loss_at(0.4, negatives=(3.0,))


def test_the_gradient_turns_the_anchor_to_the_positive_and_from_the_negative():
    anchor = units(0.5).requires_grad_()
    contrastive_loss(anchor, units(0.0), YES, units(1.0)).sum().backward()
    descent = -anchor.grad[0]
    assert descent @ units(0.0)[0] > descent @ units(1.0)[0]
    assert descent @ torch.tensor([sin(0.5), -cos(0.5)]) > 0  # clockwise, to angle 0


def test_only_the_anchor_moves():
    anchors, positives, negatives = (units(angle).requires_grad_() for angle in (0.5, 0.0, 1.0))
    contrastive_loss(anchors, positives, YES, negatives).sum().backward()
    assert anchors.grad.any()
    assert positives.grad is None
    assert negatives.grad is None


def test_retain_anchor_values():
    values = retain_anchor_loss(units(0.0, 0.5, 1.0), units(0.0, 1.3, 1.0 + 3.14159265))
    assert values.tolist() == pytest.approx([0, 1 - cos(0.8), 2], abs=1e-6)


def test_retain_anchor_holds_the_present_to_the_past():
    now, before = units(0.4).requires_grad_(), units(0.0).requires_grad_()
    retain_anchor_loss(now, before).sum().backward()
    torch.testing.assert_close(-now.grad, before.detach())  # descent goes to where it was
    assert before.grad is None
