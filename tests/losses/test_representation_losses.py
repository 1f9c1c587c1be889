"""RMU and the retain loss on features: values by hand, each row's own mean, and the direction of the gradient."""

from dataclasses import replace

import pytest
import torch

from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.retain_losses import RetainFeatures
from egup_trainer.losses.rmu import RMU

ROWS = [[-1.0, -1.0], [-1.0], [-1.0, -1.0, -1.0], []]
SIZE = 4


@pytest.fixture
def states(answers):
    """states(rows): outputs with random hidden states, which are leaves of the graph."""

    def make(rows=ROWS, hidden=None):
        out = answers(rows)
        if hidden is None:
            hidden = torch.randn(len(out.token_logps), SIZE, generator=torch.Generator().manual_seed(0))
        return replace(out, hidden=hidden.clone().requires_grad_())

    return make


def test_values_and_gradient(states):
    out, loss = states(), RMU(steering=3.0, seed=7)
    values = loss(out, ReferenceOutputs())
    target = 3.0 * loss.direction(SIZE)
    squares = [float(sum((value - aim) ** 2 for value, aim in zip(row, target)) / SIZE) for row in out.hidden.detach()]
    expected = [(squares[0] + squares[1]) / 2, squares[2], sum(squares[3:]) / 3, 0]
    assert values.tolist() == pytest.approx(expected, rel=1e-5)
    values.sum().backward()
    shares = torch.tensor([1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3])[:, None]
    torch.testing.assert_close(out.hidden.grad, 2 / SIZE * (out.hidden.detach() - target) * shares)


def test_the_direction_is_a_unit_vector_of_the_seed_with_entries_above_0():
    first = RMU(seed=1).direction(64)
    assert first.norm().item() == pytest.approx(1)
    assert (first >= 0).all()  # as in the source: drawn from [0, 1)
    assert torch.equal(RMU(seed=1).direction(64), first)
    assert not torch.equal(RMU(seed=2).direction(64), first)


def test_at_the_target_it_is_at_rest(states):
    loss = RMU(steering=5.0)
    out = states([[-1.0, -1.0]], (5.0 * loss.direction(SIZE)).repeat(2, 1))
    values = loss(out, ReferenceOutputs())
    values.sum().backward()
    assert values.tolist() == [0]
    assert out.hidden.grad.abs().sum() == 0


def test_retained_features_by_hand(states):
    hidden = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    out = states([[-1.0, -1.0], [-1.0]], hidden)
    before = torch.tensor([[1.0, 2.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [4.0, 4.0, 4.0, 4.0]])
    values = RetainFeatures()(out, ReferenceOutputs(hidden=before))
    assert values.tolist() == [4 / 4 + 4 / 4, 4 / 4]  # sums over a row's tokens
    values.sum().backward()
    torch.testing.assert_close(out.hidden.grad, 2 / SIZE * (hidden - before))
