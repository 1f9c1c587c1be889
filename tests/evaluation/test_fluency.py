"""Fluency of generations: repetition, variety, perplexity, by hand."""

from math import exp, inf, log, nan

import pytest
from fixtures_scores import row, set_of, shuffled
from hypothesis import given
from hypothesis import strategies as st

from egup_trainer.evaluation.fluency import distinct, distinct_share, perplexity, repetition


def wrote(text, nll=None):
    return row(0.5, generation=text, generation_nll=nll)


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("a b c d", 1, 1.0),
        ("a b a b", 1, 2 / 4),
        ("a b a b", 2, 2 / 3),  # ab, ba, ab
        ("a a a a a", 4, 1 / 2),
        ("A a, a! A?", 1, 1 / 4),  # neither case nor marks tell words apart
        ("b a, a b", 2, 1.0),
        ("Zoë zoë", 1, 1 / 2),
        ("a b", 2, 1.0),
        ("东京东京东京", 2, 2 / 5),  # in scripts without spaces each character is a word
        ("a", 2, None),
        ("... !", 1, None),
        ("", 1, None),
    ],
)
def test_share_of_different_n_grams_by_hand(text, n, expected):
    assert distinct_share(text, n) == (None if expected is None else pytest.approx(expected))


def test_variety_and_repetition_are_means_over_generations_that_are_long_enough():
    scores = set_of(wrote("a b a b"), wrote("a b c d e"), wrote("a"), wrote(""), row(0.5))
    metric = distinct(scores)
    assert metric.values == {"forget": pytest.approx({0: 2 / 3, 1: 1.0})}
    assert metric.value == pytest.approx(5 / 6)
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (2, 3, True)


def test_repetition_is_the_share_of_four_grams_that_stood_before():
    scores = set_of(wrote("a b c d a b c d"), wrote("a b c d e f"), wrote("a b c"))  # five, one of them again; three
    metric = repetition(scores)
    assert metric.values == {"forget": pytest.approx({0: 1 / 5, 1: 0.0})}
    assert (metric.value, metric.num_samples, metric.num_skipped) == (pytest.approx(0.1), 2, 1)
    assert metric.higher_is_better is False


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (distinct, "no generation has 2 words"),
        (repetition, "no generation has 4 words"),
        (perplexity, "no generation was read by the model before unlearning"),
    ],
)
@pytest.mark.parametrize("rows", [[], [row(0.5)], [wrote("a")]])
def test_what_cannot_be_computed_says_why(metric, reason, rows):
    found = metric(set_of(*rows))
    assert (found.value, found.interval, found.num_samples, found.reason) == (None, None, 0, reason)


def test_perplexity_is_the_exponential_of_the_mean_over_generations():
    metric = perplexity(set_of(wrote("x", log(2)), wrote("y y y y", log(8)), wrote("z"), wrote("w", log(4))))
    assert metric.value == pytest.approx(4.0)
    assert metric.values == {"forget": pytest.approx({0: 2.0, 1: 8.0, 3: 4.0})}
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (3, 1, False)


def test_the_interval_of_a_perplexity_is_one_of_perplexities():
    low, high = perplexity(set_of(*(wrote("x", log(2 + place)) for place in range(20)))).interval
    assert 2 < low < 8.3 < high < 21  # 8.3: the geometric mean
    certain = perplexity(set_of(wrote("x", log(3)), wrote("y", log(3))))
    assert certain.interval == pytest.approx((3.0, 3.0))
    assert perplexity(set_of(wrote("x", log(3)))).interval is None


@pytest.mark.parametrize("broken", [nan, inf])
def test_a_generation_whose_number_is_not_finite_is_skipped_and_counted(broken):
    metric = perplexity(set_of(wrote("x", log(2)), wrote("y", broken)))
    assert (metric.value, metric.num_samples, metric.num_skipped) == (pytest.approx(2.0), 1, 1)


def test_a_generation_of_no_likelihood_at_all_does_not_end_the_evaluation():
    metric = perplexity(set_of(wrote("x", log(2)), wrote("y", 800.0)))
    assert (metric.value, metric.num_samples, metric.num_skipped) == (pytest.approx(2.0), 1, 1)


@given(st.permutations(range(3)))
def test_the_order_of_rows_does_not_change_a_value(order):
    scores = set_of(wrote("a b a b a", 0.5), wrote("a b c d e f", 1.5), wrote("x x x x x x", 4.0))
    for metric in (distinct, repetition, perplexity):
        assert metric(shuffled(scores, order)).value == pytest.approx(metric(scores).value)
    assert perplexity(scores).value == pytest.approx(exp(2))
