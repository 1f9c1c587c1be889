"""Estimates of expected outputs: values by hand over a vocabulary of four tokens."""

from math import log

import pytest
import torch

from egup_trainer.components import output_estimates
from egup_trainer.components.expected_outputs import _sample_of_positions
from egup_trainer.components.output_estimates import (
    DISCOUNT,
    BigramOutputs,
    EstimatedOutputs,
    NearestOutputs,
    match_quantiles,
    with_answer_logps,
)
from egup_trainer.data.schema import TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.top_k_logps import TopKLogProbs

STATES = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
OUTPUTS = TopKLogProbs(
    torch.tensor([[0, 1], [3, 2]], dtype=torch.int32), torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]]).log()
)
FIRST, SECOND = [0.5, 0.3, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]
"""The two outputs in full: what they do not name shares the rest evenly."""


# Ranks and shares


def test_quantiles_by_hand():
    found = match_quantiles(torch.tensor([0.3, 9.0, -1.0, 0.4, 5.0]), torch.tensor([0.0, -8.0, -2.0]))
    expected = torch.tensor([-5.6, 0.0, -8.0, -2.0, -0.8])  # of -8, -2, 0 at 0, .4, 1, 1.6 and 2
    torch.testing.assert_close(found, expected)


def test_one_value_gets_the_median():
    assert match_quantiles(torch.tensor([9.0]), torch.tensor([0.0, -8.0, -2.0])).tolist() == [-2.0]
    assert match_quantiles(torch.tensor([9.0]), torch.tensor([0.0, -8.0, -2.0, -3.0])).tolist() == [-2.5]


def test_equal_numbers_get_the_reference_itself_in_their_order():
    generator = torch.Generator().manual_seed(0)
    values, reference = torch.randn(50, generator=generator), torch.randn(50, generator=generator) - 3
    found = match_quantiles(values, reference)
    torch.testing.assert_close(found.sort().values, reference.sort().values)
    assert torch.equal(found.argsort(), values.argsort())


def test_one_value_of_the_reference_is_everywhere():
    assert match_quantiles(torch.tensor([1.0, 2.0]), torch.tensor([-4.0])).tolist() == [-4.0, -4.0]


def test_the_others_keep_their_shares_of_what_is_left():
    q = TopKLogProbs(torch.tensor([[7, 3], [1, 2]]), torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]).log())
    found = with_answer_logps(q, torch.tensor([0.1, 0.7]).log())
    expected = torch.tensor([[0.1, 0.9 * 0.6, 0.9 * 0.4], [0.7, 0.3 * 2 / 3, 0.3 / 3]])
    torch.testing.assert_close(found.logps.exp(), expected)
    assert torch.equal(found.ids, q.ids)


def test_something_is_left_beside_a_certain_answer():
    q = TopKLogProbs(torch.tensor([[7, 3]]), torch.tensor([[0.5, 0.25, 0.25]]).log())
    found = with_answer_logps(q, torch.tensor([0.0]))
    assert found.logps.isfinite().all()
    assert found.logps[0, 0] == 0


# Nearest positions


def test_nearest_outputs_by_hand():
    # cosines 1 and -1: with T = 2 / log 3 the first counts three times as much
    nearest = NearestOutputs(STATES, OUTPUTS, vocabulary=4, neighbors=2, temperature=2 / log(3))
    expected = [0.75 * a + 0.25 * b for a, b in zip(FIRST, SECOND, strict=True)]
    assert nearest.logps(torch.tensor([[2.0, 0.0]])).exp()[0].tolist() == pytest.approx(expected, rel=1e-5)
    even = [(a + b) / 2 for a, b in zip(FIRST, SECOND, strict=True)]
    found = nearest.logps(torch.tensor([[0.0, 5.0], [-7.0, 0.0]])).exp()
    assert found[0].tolist() == pytest.approx(even, rel=1e-5)
    assert found[1].tolist() == pytest.approx(
        [0.25 * a + 0.75 * b for a, b in zip(FIRST, SECOND, strict=True)], rel=1e-5
    )


def test_one_neighbor_is_the_output_itself():
    nearest = NearestOutputs(STATES, OUTPUTS, vocabulary=4, neighbors=1)
    found = nearest.logps(torch.tensor([[0.1, 3.0], [-0.1, 3.0]])).exp()
    assert found[0].tolist() == pytest.approx(FIRST, rel=1e-5)
    assert found[1].tolist() == pytest.approx(SECOND, rel=1e-5)


def test_states_are_centred_by_the_mean_of_the_proxies():
    shift, state = torch.tensor([30.0, -5.0]), torch.tensor([[1.0, 1.0]])
    plain, moved = (
        NearestOutputs(STATES + by, OUTPUTS, 4, temperature=1.0).logps(state + by) for by in (shift * 0, shift)
    )
    torch.testing.assert_close(plain, moved, rtol=1e-4, atol=1e-5)


# Bigrams

ANSWERS = [torch.tensor([0, 1]), torch.tensor([0, 2])]


def test_bigrams_by_hand():
    bigrams = BigramOutputs(ANSWERS, vocabulary=4)
    shares = [2.5 / 6, 1.5 / 6, 1.5 / 6, 0.5 / 6]  # of four tokens, with half a token added to each of four
    before = torch.tensor([4, 0, 1])
    found = torch.stack([bigrams.logps(before, torch.full((3,), token)) for token in range(4)], dim=1).exp()
    begin = [DISCOUNT / 2 * share for share in shares]  # one token, twice
    begin[0] += (2 - DISCOUNT) / 2
    after = [DISCOUNT * share for share in shares]  # two tokens, once each
    after[1] += (1 - DISCOUNT) / 2
    after[2] += (1 - DISCOUNT) / 2
    assert found[0].tolist() == pytest.approx(begin, rel=1e-5)
    assert found[1].tolist() == pytest.approx(after, rel=1e-5)
    assert found[2].tolist() == pytest.approx(shares, rel=1e-5)  # nothing ever followed
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3))


def test_what_a_token_follows_is_in_its_own_row():
    bigrams = BigramOutputs(ANSWERS, vocabulary=4)
    before = bigrams.before(torch.tensor([1, 2, 3, 0, 2]), torch.tensor([0, 0, 2, 2, 3]))
    assert before.tolist() == [4, 1, 4, 3, 4]
    assert bigrams.before(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)).tolist() == []


# At the answer tokens of a batch


def outputs_of(states, ids, rows):
    count = torch.bincount(rows).float() if len(rows) else torch.zeros(1)
    return AnswerOutputs(torch.zeros(len(ids)), rows, count, token_ids=ids, states=states)


def estimate(top_k=2):
    return EstimatedOutputs(NearestOutputs(STATES, OUTPUTS, vocabulary=4), top_k)


def test_an_estimate_is_a_distribution_with_the_answer_first():
    ids, rows = torch.tensor([3, 0, 2]), torch.tensor([0, 0, 1])
    found = estimate()(outputs_of(torch.tensor([[1.0, 0.1], [0.3, -1.0], [-1.0, 2.0]]), ids, rows))
    assert found.ids[:, 0].tolist() == ids.tolist()
    assert found.ids.dtype == torch.int32
    torch.testing.assert_close(found.logps.exp().sum(dim=1), torch.ones(3))


@pytest.mark.parametrize("chunk", [1, 30, 1 << 20])
def test_chunks_change_nothing(chunk, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states, ids = torch.randn(9, 2, generator=generator), torch.randint(4, (9,), generator=generator)
    rows = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    expected = estimate()(outputs_of(states, ids, rows))
    monkeypatch.setattr(output_estimates, "_CHUNK", chunk)
    found = estimate()(outputs_of(states, ids, rows))
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.logps, expected.logps)


def test_no_tokens_have_an_empty_estimate():
    none = torch.tensor([], dtype=torch.long)
    found = estimate()(outputs_of(torch.zeros(0, 2), none, none))
    assert (found.ids.shape, found.logps.shape) == ((0, 2), (0, 3))


# Which proxies are kept


def row(answer):
    ids = torch.arange(answer + 3, dtype=torch.int32).numpy()
    labels = ids.copy()
    labels[:3] = -100
    return TokenizedRow(ids, labels)


def test_proxies_are_sampled_to_fit(monkeypatch):
    rows = RowDataset([row(10) for _ in range(20)])
    assert _sample_of_positions(rows, seed=0).tolist() == list(range(20))
    monkeypatch.setattr("egup_trainer.components.expected_outputs._MOST_POSITIONS", 75)
    found = [_sample_of_positions(rows, seed=seed).tolist() for seed in (0, 1)]
    assert [len(each) for each in found] == [7, 7]
    assert all(each == sorted(set(each)) for each in found)
    assert found[0] != found[1]
    assert max(found[0]) >= 7  # a sample, not the first ones
    assert len(_sample_of_positions(RowDataset([row(100)]), seed=0)) == 1
