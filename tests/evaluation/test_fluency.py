"""Fluency of generations: repetition, variety, perplexity, by hand."""

from math import inf, log, nan

import pytest
from fixtures_scores import row, set_of

from egup_trainer.evaluation.metric_registry import Measured
from egup_trainer.evaluation.metrics import fluency


def wrote(text, nll=None):
    return row(0.5, generation=text, generation_nll=nll)


def of(metric, *rows):
    return metric(Measured({}, sets={"forget": set_of(*rows)}))


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("a b c d", 1, 1.0),
        ("a b a b", 1, 2 / 4),
        ("a b a b", 2, 2 / 3),  # ab, ba, ab
        ("a a a a a", 4, 1 / 2),
        ("A a, a! A?", 1, 1 / 4),  # neither case nor punctuation distinguishes words
        ("东京东京东京", 2, 2 / 5),  # in scripts without spaces each character is a word
        ("a b", 2, 1.0),
        ("a", 2, None),
        ("... !", 1, None),
    ],
)
def test_share_of_different_n_grams_by_hand(text, n, expected):
    assert fluency.distinct_share(text, n) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("metric", "higher_is_better", "texts", "values"),
    [
        (fluency.distinct, True, ["a b a b", "a b c d e", "a", ""], {0: 2 / 3, 1: 1.0}),
        (fluency.repetition, False, ["a b c d a b c d", "a b c d e f", "a b c"], {0: 1 / 5, 1: 0.0}),
    ],
)
def test_variety_and_repetition_are_means_over_long_generations(metric, higher_is_better, texts, values):
    found = of(metric, *map(wrote, texts), row(0.5))
    assert found.values == {"forget": pytest.approx(values)}
    assert found.value == pytest.approx(sum(values.values()) / 2)
    assert (found.num_samples, found.num_skipped) == (2, len(texts) - 1)
    assert found.higher_is_better is higher_is_better


@pytest.mark.parametrize("rows", [[], [row(0.5)], [wrote("a")]])
@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (fluency.distinct, "no generation has 2 words"),
        (fluency.repetition, "no generation has 4 words"),
        (fluency.perplexity, "no generation was read by the model before unlearning"),
    ],
)
def test_what_cannot_be_computed_says_why(metric, reason, rows):
    found = of(metric, *rows)
    assert (found.value, found.interval, found.num_samples, found.reason) == (None, None, 0, reason)


def test_perplexity_is_the_exponential_of_the_mean_over_generations():
    rows = wrote("x", log(2)), wrote("y y y y", log(8)), wrote("z"), wrote("w", log(4))
    metric = of(fluency.perplexity, *rows, *(wrote("v", broken) for broken in (nan, inf, 800.0)))
    assert metric.value == pytest.approx(4.0)
    assert metric.values == {"forget": pytest.approx({0: 2.0, 1: 8.0, 3: 4.0})}
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (3, 4, False)


def test_the_interval_of_a_perplexity_is_one_of_perplexities():
    low, high = of(fluency.perplexity, *(wrote("x", log(2 + i)) for i in range(20))).interval
    assert 2 < low < 8.3 < high < 21  # 8.3: the geometric mean
    assert of(fluency.perplexity, wrote("x", log(3))).interval is None
