"""The judgement of estimates of expected outputs, on outputs made up over a vocabulary of a few tokens."""

from math import log

import pytest
import torch

from benchmarks.estimators import ESTIMATES, LAYERS, Outputs, _with_answers, judge, scores
from benchmarks.study.world import ROWS_AN_AUTHOR

VOCABULARY = 12


def outputs(authors, seed):
    """Two answer tokens for each row of some authors."""
    generator = torch.Generator().manual_seed(seed)
    count = 2 * ROWS_AN_AUTHOR * authors
    logps = (2 * torch.randn(count, VOCABULARY, generator=generator)).log_softmax(-1)
    states = {layer: torch.randn(count, 5, generator=generator) for layer in LAYERS}
    ids = torch.randint(VOCABULARY, (count,), generator=generator)
    return Outputs(logps, states, ids, torch.arange(count) // 2, logps)


@pytest.fixture
def world():
    """Proxies of two authors, forget rows of one, the retrained model's outputs, and the rest that `judge` takes."""
    proxies, forget, base = outputs(2, 0), outputs(1, 1), outputs(3, 2)
    retain = [torch.tensor([1, 2, 3]), torch.tensor([1, 2])]
    at = len(proxies.ids)
    known = {"retain": retain, "base proxies": base.logps[:at], "base forget": base.logps[at:]}
    return proxies, forget, outputs(1, 3).logps, known


def test_scores_by_hand():
    p, q = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log(), torch.tensor([[0.25, 0.75], [0.6, 0.4]]).log()
    found = scores(q, p, torch.tensor([0, 1]))
    divergences = [0.5 * log(2) + 0.5 * log(0.5 / 0.75), 0.2 * log(0.2 / 0.6) + 0.8 * log(2)]
    assert found["divergence"] == pytest.approx(sum(divergences) / 2)
    assert found["error"] == pytest.approx(log(2))  # .25 for .5, and .4 for .8
    assert found["correlation"] == pytest.approx(1)
    assert found["nll"] == pytest.approx(-(log(0.25) + log(0.4)) / 2)
    assert scores(p, p, torch.tensor([0, 1]))["divergence"] == pytest.approx(0, abs=1e-6)


def test_greedy_agreement_counts_equal_most_likely_tokens():
    p, q = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), torch.tensor([[0.6, 0.4], [0.7, 0.3]]).log()
    assert scores(q, p, torch.tensor([0, 1]))["agreement"] == 0.5


def test_others_share_what_is_left_beside_the_answer():
    q = torch.tensor([[0.5, 0.3, 0.2]]).log()
    found = _with_answers(q, torch.tensor([0]), torch.tensor([0.1]).log()).exp()
    assert found[0].tolist() == pytest.approx([0.1, 0.9 * 0.6, 0.9 * 0.4])


@pytest.mark.parametrize("name", ESTIMATES)
def test_every_estimate_is_a_distribution_and_is_judged(name, world):
    proxies, forget, retrained, known = world
    found = judge(ESTIMATES[name], proxies, forget, retrained, known)
    assert set(found) == {"proxies", "shift", "retrained", "retrained, quantiles matched"}
    assert found["retrained"]["divergence"] >= 0
    assert found["retrained, quantiles matched"]["divergence"] >= 0


def test_the_model_itself_predicts_itself_and_shows_that_it_knows_the_rows(world):
    proxies, forget, retrained, known = world
    known_by_heart = forget.logps.scatter_add(1, forget.ids[:, None], torch.full((len(forget.ids), 1), 9.0))
    forget = Outputs(known_by_heart.log_softmax(-1), forget.states, forget.ids, forget.rows, forget.under_others)
    found = judge(ESTIMATES["the model itself"], proxies, forget, retrained, known)
    assert found["proxies"]["divergence"] == pytest.approx(0, abs=1e-6)
    assert found["shift"] > 1  # nats likelier than proxies
    matched = judge(ESTIMATES["mean over the proxies"], proxies, forget, retrained, known)
    assert abs(matched["shift"]) < 1
