"""Means, areas under curves and their intervals: by hand, with numbers missing, and against simulated data."""

from math import inf, nan, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egup_trainer.evaluation.metric import (
    Metric,
    area_under_curve,
    auc_metric,
    bootstrap_interval,
    finite,
    mean_metric,
)

NOT_FINITE = [nan, inf, -inf]
numbers = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def mean(values, num_rows=None, without="no answer"):
    rows = len(values) if num_rows is None else num_rows
    return mean_metric("forget", values, num_rows=rows, higher_is_better=False, without=without)


def auc(low, high, num_rows=None):
    sets = ("forget", dict(enumerate(low))), ("holdout", dict(enumerate(high)))
    return auc_metric(*sets, num_rows=len(low) + len(high) if num_rows is None else num_rows)


def test_a_mean_counts_what_it_has_and_what_it_lacks():
    metric = mean({4: 1.0, 0: 2.0, 7: 6.0}, num_rows=5)
    assert (metric.value, metric.num_samples, metric.num_skipped) == (3.0, 3, 2)
    assert metric.values == {"forget": {4: 1.0, 0: 2.0, 7: 6.0}}
    assert (metric.higher_is_better, metric.reason) == (False, None)


@pytest.mark.parametrize("broken", NOT_FINITE)
def test_a_number_that_is_not_finite_is_skipped_and_counted(broken):
    whole, part = mean({0: 0.25, 1: 0.75}, num_rows=3), mean({0: 0.25, 1: 0.75, 2: broken})
    assert part == whole
    assert (part.value, part.num_samples, part.num_skipped) == (0.5, 2, 1)


@pytest.mark.parametrize("values", [{}, {0: nan, 1: inf}])
def test_a_mean_of_nothing_has_no_value(values):
    metric = mean(values, num_rows=2, without="no row has an answer")
    assert metric.reason == ("no row has a finite number" if values else "no row has an answer")
    assert (metric.value, metric.interval, metric.num_samples) == (None, None, 0)
    assert (metric.higher_is_better, metric.values) == (False, {})


def test_finite_keeps_plain_numbers_by_sample():
    kept = finite({3: np.float32(0.5), 1: nan, 2: 1})
    assert kept == {3: 0.5, 2: 1.0}
    assert {type(value) for value in kept.values()} == {float}


@given(numbers, numbers)
def test_area_under_the_curve_is_the_share_of_pairs_won(low, high):
    pairs = [(a < b) + (a == b) / 2 for a in low for b in high]
    area = area_under_curve(np.array(low), np.array(high))
    assert area == pytest.approx(sum(pairs) / len(pairs))
    assert area_under_curve(np.array(high), np.array(low)) == pytest.approx(1 - area)


def test_an_attack_counts_both_sets_and_has_no_good_direction():
    metric = auc([1.0, nan, 2.0], [2.0, 3.0, inf], num_rows=8)
    assert (metric.value, metric.num_samples, metric.num_skipped) == (pytest.approx(7 / 8), 4, 4)
    assert metric.values == {"forget": {0: 1.0, 2: 2.0}, "holdout": {0: 2.0, 1: 3.0}}
    assert (metric.higher_is_better, metric.reason) == (None, None)


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        ([], [1.0], "no forget rows with this number"),
        ([1.0], [nan], "no holdout rows with this number"),
        ([inf], [], "no forget and no holdout rows with this number"),
    ],
)
def test_an_attack_without_one_of_the_sets_has_no_value(low, high, reason):
    metric = auc(low, high)
    assert (metric.value, metric.interval, metric.reason) == (None, None, reason)
    assert metric.values == {"forget": finite(dict(enumerate(low))), "holdout": finite(dict(enumerate(high)))}


@pytest.mark.parametrize("metric", [lambda v: mean(dict(enumerate(v))), lambda v: auc(v, [0.4, 0.5, 0.6])])
def test_an_interval_is_the_same_twice_and_holds_the_value(metric):
    values = [0.0, 0.25, 0.5, 0.75, 1.0]
    low, high = metric(values).interval
    assert (low, high) == metric(values).interval
    assert low < metric(values).value < high
    assert (type(low), type(high)) == (float, float)


def test_an_interval_does_not_touch_the_global_random_state():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    bootstrap_interval(np.mean, np.arange(5.0))
    assert (np.random.get_state()[1] == before).all()


def test_metrics_of_one_sample_have_a_value_and_no_interval():
    assert (mean({3: 0.5}).value, mean({3: 0.5}).interval) == (0.5, None)
    assert (auc([1.0], [2.0, 3.0]).value, auc([1.0], [2.0, 3.0]).interval) == (1.0, None)


def test_equal_samples_are_certain():
    assert mean(dict.fromkeys(range(5), 0.25)).interval == (0.25, 0.25)
    assert auc([1.0, 2.0], [3.0, 4.0]).interval == (1.0, 1.0)


@pytest.mark.parametrize("size", [100, 1600])
def test_an_interval_of_a_mean_is_as_wide_as_theory_has_it(size):
    sample = np.array([NormalDist().inv_cdf((i + 0.5) / size) for i in range(size)])
    low, high = bootstrap_interval(np.mean, sample)
    assert high - low == pytest.approx(2 * 1.96 * sample.std() / sqrt(size), rel=0.1)
    assert (low + high) / 2 == pytest.approx(0, abs=0.25 / sqrt(size))


def test_intervals_of_areas_cover_the_truth_about_as_often_as_they_say():
    truth = NormalDist().cdf(1 / sqrt(2))  # P(low < high) of two normal distributions, one apart
    rng = np.random.default_rng(2)
    draws = [(rng.normal(0, 1, 40), rng.normal(1, 1, 30)) for _ in range(200)]
    intervals = [bootstrap_interval(area_under_curve, low, high) for low, high in draws]
    assert 0.90 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.99


@pytest.mark.parametrize("value", [float(text) for text in ("nan", "inf", "-inf")])
def test_a_value_is_a_finite_number_or_none(value):
    with pytest.raises(ValueError, match="finite"):
        Metric(value, True)
