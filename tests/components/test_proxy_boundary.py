"""The proxy constraint: boundaries and both of its forms by hand."""

from math import exp, log

import pytest
import torch
from scipy.special import expit as sigmoid

from egup_trainer.components.proxy_constraint import nearest_proxies, proxy_boundary, proxy_effort, proxy_penalty

BOUNDARY = torch.tensor([2.0, 2.0, 2.0, 2.0, 3.0])
NLL = [0.1, 1.9, 2.0, 2.3, 2.3]
GAPS = [-1.9, -0.1, 0.0, 0.3, -0.7]


def test_boundary_is_the_mean_over_a_samples_proxies():
    assert proxy_boundary(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([[0, 1, 2], [2, 2, 2]])).tolist() == [3, 6]


@pytest.mark.parametrize(
    ("neighbors", "expected"), [(1, [1, 4]), (2, [1.5, 3]), (3, [7 / 3, 7 / 3]), (8, [7 / 3, 7 / 3])]
)
def test_nearest_proxies_make_the_boundary(neighbors, expected, units):
    # Proxies at angles 0, 0.5, 2 with l = 1, 2, 4; forget rows at -0.1 (nearest: 1, 2, 4) and 1.9 (nearest: 4, 2, 1).
    nll, proxies, forget = torch.tensor([1.0, 2.0, 4.0]), units(0.0, 0.5, 2.0), units(-0.1, 1.9)
    nearest = nearest_proxies(proxies, forget, neighbors)
    assert proxy_boundary(nll, nearest).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("strength", "temperature"), [(2.0, 0.2), (1.0, 0.5), (0.0, 0.2)])
def test_effort_by_hand(strength, temperature):
    effort = proxy_effort(torch.tensor(NLL), BOUNDARY, strength, temperature)
    expected = [1 - strength * sigmoid(gap / temperature) for gap in GAPS]
    assert effort.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("strength", "temperature"), [(2.0, 0.2), (1.0, 0.5), (0.0, 0.2)])
def test_penalty_by_hand(strength, temperature):
    penalty = proxy_penalty(torch.tensor(NLL), BOUNDARY, strength, temperature)
    expected = [strength * temperature * log(1 + exp(gap / temperature)) for gap in GAPS]
    assert penalty.tolist() == pytest.approx(expected, abs=1e-5)


def test_full_push_below_none_at_and_a_pull_back_beyond_the_boundary():
    effort = proxy_effort(torch.tensor([0.0, 1.5, 2.0, 2.5, 9.0]), torch.tensor(2.0))
    assert effort[0] == pytest.approx(1, abs=1e-3)
    assert effort[2] == 0
    assert effort[4] == pytest.approx(-1, abs=1e-3)
    assert (effort.diff() < 0).all()


def test_effort_has_no_gradient_and_the_penalty_has():
    nll = torch.tensor(NLL, requires_grad=True)
    assert not proxy_effort(nll, BOUNDARY).requires_grad
    proxy_penalty(nll, BOUNDARY).sum().backward()
    assert nll.grad.tolist() == pytest.approx([2 * sigmoid(gap / 0.2) for gap in GAPS], abs=1e-5)
