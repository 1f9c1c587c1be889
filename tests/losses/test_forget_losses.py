"""Each forget loss: values by hand, the direction of its gradient, rows without a scored token."""

from math import log

import pytest
import torch
from scipy.special import expit as sigmoid

from egup_trainer.losses.base import ReferenceOutputs, Unit
from egup_trainer.losses.grad_ascent import GradientAscent
from egup_trainer.losses.grad_diff import GradientDifference
from egup_trainer.losses.npo import NPO
from egup_trainer.losses.simnpo import SimNPO

ROWS = [[-1.0, -3.0], [-0.5], []]  # L = 4, 0.5, 0; l = 2, 0.5, 0
BEFORE = torch.tensor([3.0, 1.5, 0.0])
LOSSES = [GradientAscent(), GradientDifference(), NPO(0.1), NPO(2.0), SimNPO(), SimNPO(2.0, 0.5)]


def named(losses):
    return pytest.mark.parametrize("loss", losses, ids=lambda loss: type(loss).__name__)


@named([GradientAscent(), GradientDifference()])
def test_gradient_ascent_is_minus_the_mean_nll(loss, answers):
    assert loss(answers(ROWS), ReferenceOutputs()).tolist() == [-2, -0.5, 0]
    assert loss.unit is Unit.MEAN
    assert loss.needs == frozenset()
    assert loss.supports_negative_weight


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.5])
def test_npo_values(beta, answers):
    values = NPO(beta)(answers(ROWS), ReferenceOutputs(sum_nll=BEFORE))
    expected = [-2 / beta * log(sigmoid(beta * rise)) for rise in (4 - 3, 0.5 - 1.5, 0 - 0)]
    assert values.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 2.5])
def test_npo_pull_fades_as_the_answer_gets_unlikely(beta, answers):
    out = answers(ROWS)
    NPO(beta)(out, ReferenceOutputs(sum_nll=BEFORE)).sum().backward()
    pulls = [-2 * sigmoid(-beta * rise) for rise in (1, 1, -1)]  # in L, of the row that each of the tokens is in
    assert out.token_logps.grad.tolist() == pytest.approx([-pull for pull in pulls], rel=1e-5)


def test_npo_is_gradient_ascent_on_the_sum_while_nothing_has_moved(answers):
    out = answers([[-1.0, -3.0]])
    NPO(0.7)(out, ReferenceOutputs(sum_nll=torch.tensor([4.0]))).sum().backward()
    assert out.token_logps.grad.tolist() == [1, 1]  # 2 * sigmoid(0)


@pytest.mark.parametrize(("beta", "delta"), [(4.5, 0.0), (2.0, 0.5), (0.1, 3.0)])
def test_simnpo_values_and_gradient(beta, delta, answers):
    out = answers(ROWS)
    values = SimNPO(beta, delta)(out, ReferenceOutputs())
    margins = [beta * nll - delta for nll in (2, 0.5, 0)]
    assert values.tolist() == pytest.approx([-2 / beta * log(sigmoid(margin)) for margin in margins], rel=1e-4)
    values.sum().backward()
    shares = [2 * sigmoid(-margins[0]) / 2, 2 * sigmoid(-margins[0]) / 2, 2 * sigmoid(-margins[1])]
    assert out.token_logps.grad.tolist() == pytest.approx(shares, rel=1e-4)


@named(LOSSES)
def test_a_step_makes_the_forget_answer_less_likely(loss, nll_after_step):
    before, after = nll_after_step(lambda out: loss(out, ReferenceOutputs(sum_nll=out.sum_nll.detach())))
    assert after > before + 1e-3


@named(LOSSES)
def test_every_token_is_pushed_down(loss, answers):
    out = answers(ROWS)
    loss(out, ReferenceOutputs(sum_nll=BEFORE)).sum().backward()
    assert (out.token_logps.grad > 0).all()  # descent lowers the log-probability
