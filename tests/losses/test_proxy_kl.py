"""proxy_kl: values and gradients by hand, and that it is at rest where the model says what is expected."""

from math import log

import pytest
import torch

from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.proxy_kl import ProxyKL, token_divergence, token_effort, token_gap
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.top_k_logps import TopKLogProbs

ANSWER, FILLER = 0, 2
EXPECTED = [0.2, 0.5, 0.3]
"""q of the answer's token, of the filler, and of the two other tokens together."""


def expected(*rows):
    """Expected outputs of tokens, each the probabilities of answer, filler and rest."""
    ids = torch.tensor([[ANSWER, FILLER]] * len(rows), dtype=torch.int32)
    return TopKLogProbs(ids, torch.tensor(rows).log())


def outputs_of(probabilities, rows):
    """Outputs whose logits are leaves, of tokens with these probabilities; the answer's token is always `ANSWER`."""
    logits = torch.tensor(probabilities).log().requires_grad_()
    token_rows = torch.tensor([place for place, count in enumerate(rows) for _ in range(count)])
    logps = logits.log_softmax(-1)[:, ANSWER]
    return AnswerOutputs(logps, token_rows, torch.tensor(rows).float(), logits=logits), logits


def loss_of(probabilities, q, rows=(1,), **options):
    outputs, logits = outputs_of(probabilities, list(rows))
    return ProxyKL(**options)(outputs, ReferenceOutputs(top_k_logps=expected(*q))), logits


P = [0.6, 0.1, 0.1, 0.2]
KL = 0.2 * log(0.2 / 0.6) + 0.5 * log(0.5 / 0.1) + 0.3 * log(0.3 / 0.3)
# log(.2 / .6) / .5 = -log 9, and 1 - 2 / (1 + 9) = .8
EFFORT = 0.8


def test_by_hand():
    value, _ = loss_of([P], [EXPECTED], effort=3.0, temperature=0.5)
    assert value.tolist() == pytest.approx([KL + 3 * EFFORT * log(0.6)])
    alone, _ = loss_of([P], [EXPECTED], effort=0.0)
    assert alone.tolist() == pytest.approx([KL])


def test_the_parts_by_hand():
    outputs, _ = outputs_of([P, P], [2])
    q = expected(EXPECTED, [0.6, 0.1, 0.3])
    assert token_divergence(outputs, q).tolist() == pytest.approx([KL, 0], abs=1e-6)
    gap = token_gap(outputs, q)
    assert gap.tolist() == pytest.approx([log(0.2 / 0.6), 0], abs=1e-6)
    assert token_effort(gap, 0.5).tolist() == pytest.approx([EFFORT, 0], abs=1e-6)
    assert token_effort(-gap, 0.5).tolist() == pytest.approx([-EFFORT, 0], abs=1e-6)


def test_a_row_is_the_mean_of_its_tokens():
    one, _ = loss_of([P], [EXPECTED])
    other, _ = loss_of([[0.1, 0.2, 0.3, 0.4]], [EXPECTED])
    values, _ = loss_of([P, P, [0.1, 0.2, 0.3, 0.4]], [EXPECTED] * 3, rows=(1, 0, 2))
    assert values.tolist() == pytest.approx([one.item(), 0, (one.item() + other.item()) / 2])


def test_the_gradient_by_hand():
    value, logits = loss_of([P], [EXPECTED], effort=3.0, temperature=0.5)
    value.sum().backward()
    # KL: p - q for a token with a class of its own, p - q_rest p / p_rest for others; then 3 e (1 or 0 - p)
    divergence = [0.6 - 0.2, 0.1 - 0.3 * 0.1 / 0.3, 0.1 - 0.5, 0.2 - 0.3 * 0.2 / 0.3]
    push = [3 * EFFORT * (float(token == ANSWER) - p) for token, p in enumerate(P)]
    assert logits.grad[0].tolist() == pytest.approx([a + b for a, b in zip(divergence, push, strict=True)], abs=1e-6)


@pytest.mark.parametrize("effort", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("answer", [0.9, 0.25, 0.15, 1e-3])
def test_each_token_moves_towards_what_is_expected(answer, effort):
    """Downhill the answer falls if it is likelier than expected and rises if it is not; the filler alone rises."""
    rest = (1 - answer) / 10
    value, logits = loss_of([[answer, 6 * rest, rest, 3 * rest]], [EXPECTED], effort=effort)
    value.sum().backward()
    falls, rises = logits.grad[0, ANSWER] > 0, logits.grad[0, FILLER] < 0
    assert falls == (answer > EXPECTED[0])
    if answer > EXPECTED[0] or not effort:
        assert rises


def test_the_effort_acts_where_the_divergence_fades():
    """Its gradient at the answer's token is p - q, which is nothing once both are small."""
    tiny, q = [1e-3, 0.3, 0.3, 0.399], [1e-6, 0.3, 0.7 - 1e-6]
    gradients = []
    for effort in (0.0, 1.0):
        value, logits = loss_of([tiny], [q], effort=effort)
        value.sum().backward()
        gradients.append(logits.grad[0, ANSWER].item())
    assert abs(gradients[0]) < 2e-3
    assert gradients[1] > 0.9


def test_it_is_at_rest_where_the_model_says_what_is_expected():
    p = [[0.2, 0.1, 0.5, 0.2]]
    value, logits = loss_of(p, [EXPECTED], effort=5.0)
    assert value.tolist() == pytest.approx([0], abs=1e-6)
    value.sum().backward()
    assert logits.grad.abs().max() < 1e-6


def test_it_converges_to_what_is_expected():
    logits = torch.tensor([[0.0, 1.0, -2.0, 0.5]], requires_grad=True)
    optimizer, q = torch.optim.SGD([logits], lr=0.2), expected(EXPECTED)
    for _ in range(300):
        logps = logits.log_softmax(-1)[:, ANSWER]
        outputs = AnswerOutputs(logps, torch.tensor([0]), torch.tensor([1.0]), logits=logits)
        optimizer.zero_grad()
        ProxyKL()(outputs, ReferenceOutputs(top_k_logps=q)).sum().backward()
        optimizer.step()
    p = logits.detach().softmax(-1)[0]
    assert [p[ANSWER], p[FILLER], p[1] + p[3]] == pytest.approx(EXPECTED, abs=1e-3)
