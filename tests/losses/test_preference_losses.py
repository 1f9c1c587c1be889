"""DPO and AltPO: values by hand, where both pulls go, and that only rows and their own alternates meet."""

from dataclasses import replace
from math import log

import pytest
import torch
from scipy.special import expit as sigmoid

from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.dpo import DPO

ROWS = [[-1.0, -3.0], [-0.5], []]  # L = 4, 0.5, 0
ALTERNATES = [[-2.0], [-1.0, -1.5], []]  # A = 2, 2.5, 0
BEFORE = ReferenceOutputs(sum_nll=torch.tensor([3.0, 1.5, 0.0]), alternate_nll=torch.tensor([2.5, 2.0, 0.0]))
MARGINS = [(4 - 3) - (2 - 2.5), (0.5 - 1.5) - (2.5 - 2.0), 0]


@pytest.fixture
def joined(answers):
    """joined(rows, alternates): outputs with their alternates, both leaves of the graph."""

    def make(rows=ROWS, alternates=ALTERNATES):
        return replace(answers(rows), alternate=answers(alternates))

    return make


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.5])
def test_values(beta, joined):
    values = DPO(beta)(joined(), BEFORE)
    assert values.tolist() == pytest.approx([-2 / beta * log(sigmoid(beta * margin)) for margin in MARGINS], rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 2.5])
def test_the_answer_is_pushed_down_and_the_alternate_up_with_one_strength(beta, joined):
    out = joined()
    DPO(beta)(out, BEFORE).sum().backward()
    first, second = (2 * sigmoid(-beta * margin) for margin in MARGINS[:2])
    assert out.token_logps.grad.tolist() == pytest.approx([first, first, second], rel=1e-5)  # descent lowers it
    assert out.alternate.token_logps.grad.tolist() == pytest.approx([-first, -second, -second], rel=1e-5)
