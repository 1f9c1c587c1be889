"""Retain losses: values by hand, the direction of the divergence, sums over a row's answer tokens."""

from math import log

import pytest
import torch

from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.retain_losses import RetainKL, RetainNLL
from egup_trainer.modeling.reference import Need
from egup_trainer.modeling.top_k_logps import TopKLogProbs

P = torch.tensor([0.7, 0.2, 0.1])  # before unlearning
Q = torch.tensor([0.2, 0.2, 0.6])  # now
KL_P_Q = 0.7 * log(0.7 / 0.2) + 0.2 * log(0.2 / 0.2) + 0.1 * log(0.1 / 0.6)
KL_Q_P = 0.2 * log(0.2 / 0.7) + 0.2 * log(0.2 / 0.2) + 0.6 * log(0.6 / 0.1)


def divergence(answers, now, before, rows):
    out = answers(rows, logits=now)
    return RetainKL()(out, ReferenceOutputs(logits=before))


def test_nll_is_the_sum_over_a_row(answers):
    out = answers([[-1.0, -3.0], [], [-0.5]])
    values = RetainNLL()(out, ReferenceOutputs())
    assert values.tolist() == [4, 0, 0.5]
    values.sum().backward()
    assert out.token_logps.grad.tolist() == [-1, -1, -1]
    assert RetainNLL.needs == frozenset()


def test_a_step_makes_the_retain_answer_more_likely(nll_after_step):
    before, after = nll_after_step(lambda out: RetainNLL()(out, ReferenceOutputs()))
    assert after < before - 1e-3


def test_kl_goes_from_before_to_now(answers):
    assert abs(KL_P_Q - KL_Q_P) > 0.01  # else the direction would not show
    assert divergence(answers, Q.log()[None], P.log()[None], [[-1.0]]).tolist() == pytest.approx([KL_P_Q], rel=1e-5)
    assert RetainKL.needs == frozenset({Need.TOP_K})


def test_kl_of_the_likely_tokens_is_that_of_the_classes_they_make(answers):
    out = answers([[-1.0]], logits=Q.log()[None] + 2)
    values = RetainKL()(out, ReferenceOutputs(top_k_logps=TopKLogProbs.of(P.log()[None], k=1)))
    assert values.tolist() == pytest.approx([0.7 * log(0.7 / 0.2) + 0.3 * log(0.3 / 0.8)], rel=1e-5)
    assert 0 < values.item() < KL_P_Q


def test_kl_of_all_tokens_is_exact(answers):
    generator = torch.Generator().manual_seed(0)
    before, now = torch.randn(2, 4, 9, generator=generator)
    gradients = []
    for known in (ReferenceOutputs(top_k_logps=TopKLogProbs.of(before, k=8)), ReferenceOutputs(logits=before)):
        logits = now.clone().requires_grad_()
        values = RetainKL()(answers([[-1.0] * 3, [-1.0]], logits=logits), known)
        values.sum().backward()
        gradients.append((values.detach(), logits.grad))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_kl_takes_logits_with_any_offset(answers):
    values = divergence(answers, Q.log()[None] + 7, P.log()[None] - 3, [[-1.0]])
    assert values.tolist() == pytest.approx([KL_P_Q], rel=1e-4)


def test_kl_is_summed_over_the_tokens_of_each_row(answers):
    now, before = torch.stack([Q, P, Q]).log(), torch.stack([P, P, P]).log()
    values = divergence(answers, now, before, [[-1.0, -1.0], [], [-1.0]])
    assert values.tolist() == pytest.approx([KL_P_Q, 0, KL_P_Q], rel=1e-5, abs=1e-6)


def test_kl_gradient_leads_back_to_the_model_before(answers):
    now = Q.log()[None].clone().requires_grad_()
    divergence(answers, now, P.log()[None], [[-1.0]]).sum().backward()
    torch.testing.assert_close(now.grad[0], Q - P)  # softmax(now) - p_before
