"""WGA, SatImp, CE-U, UNDIAL and plain fine-tuning: values by hand, gradients, and the faults of other code."""

from math import exp, log

import pytest
import torch

from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.ceu import CEU
from egup_trainer.losses.finetune import FineTune
from egup_trainer.losses.satimp import SatImp
from egup_trainer.losses.undial import UNDIAL
from egup_trainer.losses.wga import WGA
from egup_trainer.modeling.outputs import AnswerOutputs

ROWS = [[-1.0, -3.0], [-0.5], []]


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_wga_values_and_gradient(beta, answers):
    out = answers(ROWS)
    values = WGA(beta)(out, ReferenceOutputs())
    expected = [(exp(-beta) * -1 + exp(-3 * beta) * -3) / 2, exp(-0.5 * beta) * -0.5, 0]
    assert values.tolist() == pytest.approx(expected, rel=1e-5)
    values.sum().backward()  # the weights carry no gradient
    shares = [exp(-beta) / 2, exp(-3 * beta) / 2, exp(-0.5 * beta)]
    assert out.token_logps.grad.tolist() == pytest.approx(shares, rel=1e-5)


@pytest.mark.parametrize(("beta1", "beta2"), [(5.0, 1.0), (1.0, 2.0), (0.0, 1.0)])
def test_satimp_values_and_gradient(beta1, beta2, answers):
    out = answers(ROWS)
    values = SatImp(beta1, beta2)(out, ReferenceOutputs())
    weights = [exp(logp * beta1) * (1 - exp(logp)) ** beta2 for logp in (-1, -3, -0.5)]
    assert values.tolist() == pytest.approx([-(weights[0] + 3 * weights[1]) / 2, -0.5 * weights[2], 0], rel=1e-4)
    values.sum().backward()
    assert out.token_logps.grad.tolist() == pytest.approx([weights[0] / 2, weights[1] / 2, weights[2]], rel=1e-4)


def test_satimp_lets_go_of_unlikely_tokens_and_spares_the_surest(answers):
    out = answers([[log(0.001), log(0.8), log(0.9999)]])
    SatImp()(out, ReferenceOutputs()).sum().backward()
    unlikely, likely, surest = out.token_logps.grad.tolist()
    assert likely > surest > unlikely > 0


@pytest.fixture
def spoken():
    """spoken(): two rows of 2 and 1 answer tokens over a vocabulary of 5, logits with gradient, and a reference's."""

    def make():
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3, 5, generator=generator).requires_grad_()
        before = torch.randn(3, 5, generator=generator)
        ids, rows = torch.tensor([1, 4, 0]), torch.tensor([0, 0, 1])
        logps = logits.log_softmax(-1).gather(1, ids[:, None]).squeeze(1)
        out = AnswerOutputs(logps, rows, torch.tensor([2.0, 1.0]), None, logits, ids)
        return out, ReferenceOutputs(logits=before)

    return make


def cross_entropy_by_hand(logits, target):
    logps = torch.log(torch.exp(logits.double()) / torch.exp(logits.double()).sum())
    return -float((target.double() * logps).sum())


def test_ceu_by_hand(spoken):
    out, _ = spoken()
    values, losses = CEU()(out, ReferenceOutputs()), []
    for logits, token in zip(out.logits.detach(), out.token_ids, strict=True):
        target = torch.exp(logits)
        target[token] = 0
        losses.append(cross_entropy_by_hand(logits, target / target.sum()))
    assert values.tolist() == pytest.approx([(losses[0] + losses[1]) / 2, losses[2]], rel=1e-5)


def test_the_pull_of_ceu_is_p_minus_q(spoken):
    out, _ = spoken()
    CEU()(out, ReferenceOutputs()).sum().backward()
    p = out.logits.detach().softmax(-1)
    q = p.scatter(1, out.token_ids[:, None], 0)
    q = q / q.sum(-1, keepdim=True)
    shares = torch.tensor([0.5, 0.5, 1.0])[:, None]
    torch.testing.assert_close(out.logits.grad, (p - q) * shares)
    assert (out.logits.grad.gather(1, out.token_ids[:, None]) > 0).all()  # descent lowers the answer's logit


@pytest.mark.parametrize("strength", [0.5, 10.0])
def test_undial_by_hand(spoken, strength):
    out, reference = spoken()
    values, losses = UNDIAL(strength)(out, reference), []
    for logits, before, token in zip(out.logits.detach(), reference.logits, out.token_ids, strict=True):
        target = torch.exp(before - strength * (torch.arange(5) == token))
        losses.append(cross_entropy_by_hand(logits, target / target.sum()))
    assert values.tolist() == pytest.approx([(losses[0] + losses[1]) / 2, losses[2]], rel=1e-5)


def test_undial_leaves_what_it_is_given_as_it_was(spoken):
    out, reference = spoken()
    before = reference.logits.clone()
    UNDIAL()(out, reference)
    assert torch.equal(reference.logits, before)


def test_undial_is_at_rest_once_the_model_says_what_it_should(spoken):
    out, reference = spoken()
    target = reference.logits - 3.0 * torch.nn.functional.one_hot(out.token_ids, 5)
    there = AnswerOutputs(out.token_logps, out.token_rows, out.num_tokens, None, target.requires_grad_(), out.token_ids)
    UNDIAL(3.0)(there, reference).sum().backward()
    torch.testing.assert_close(target.grad, torch.zeros(3, 5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [WGA(), SatImp(), CEU(), UNDIAL()], ids=lambda loss: type(loss).__name__)
def test_a_step_makes_the_forget_answer_less_likely(loss, nll_after_step):
    before, after = nll_after_step(lambda out: loss(out, ReferenceOutputs(logits=out.logits.detach())))
    assert after > before + 1e-3


def test_fine_tuning_says_nothing_of_forget_rows(answers):
    out = answers(ROWS)
    values = FineTune()(out, ReferenceOutputs())
    values.sum().backward()
    assert values.tolist() == [0, 0, 0]
    assert out.token_logps.grad.tolist() == [0, 0, 0]
