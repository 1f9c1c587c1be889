"""Forget quality, a test of two sets of truth ratios; model utility, a harmonic mean of named parts, or nothing."""

from math import inf, nan

import pytest
from fixtures_scores import set_of

from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.metric_registry import Measured
from egup_trainer.evaluation.metrics.forget_quality import NO_RETRAINED, forget_quality
from egup_trainer.evaluation.metrics.model_utility import harmonic_mean, model_utility
from egup_trainer.evaluation.scores import RowRole

KEPT = {"retain": RowRole.RETAIN, "real_authors": RowRole.CHOICE, "world_facts": RowRole.CHOICE}
NINE = [f"{row_set}_{part}" for row_set in KEPT for part in ("probability", "rouge", "truth_ratio")]


@pytest.mark.parametrize(
    ("ratios", "retrained", "expected"),
    [
        ([1, 2, 3, 4], [5, 6, 7, 8], 2 / 70),  # the two most extreme of 8 over 4 orders
        ([5, 6, 7, 8], [1, 2, 3, 4], 2 / 70),  # two-sided
        ([1, 2], [3, 4, 5, 6, 7, 8, 9, 10], 2 / 45),  # sizes may differ
        ([1, 3, 5, 7], [2, 4, 6, 8], 1.0),
        ([0.5, 0.7, 0.9, 1.1], [1.1, 0.5, 0.7, 0.9], 1.0),  # distributions, not pairs
    ],
)
def test_forget_quality_by_hand(ratios, retrained, expected):
    metric = forget_quality(dict(enumerate(ratios)), dict(enumerate(retrained)))
    assert metric.value == pytest.approx(expected)
    assert (metric.num_samples, metric.num_skipped, metric.interval, metric.reason) == (len(ratios), 0, None, None)
    assert metric.values == {"forget": dict(enumerate(map(float, ratios)))}


@pytest.mark.parametrize(("ours", "theirs", "least"), [(1, 1, "1"), (2, 2, "0.33"), (3, 3, "0.1"), (2, 6, "0.071")])
def test_forget_quality_of_so_few_rows_that_nothing_could_be_distinguished_is_none(ours, theirs, least):
    metric = forget_quality(dict(enumerate(range(ours))), dict(enumerate(range(90, 90 + theirs))))
    assert (metric.value, metric.num_samples, metric.num_skipped) == (None, 0, ours)
    assert "too few rows" in metric.reason
    assert f"at least {least}," in metric.reason
    assert metric.values == {"forget": dict(enumerate(map(float, range(ours))))}  # for other results to compare with


@pytest.mark.parametrize("broken", [nan, inf])
def test_forget_quality_skips_what_is_not_finite_and_counts_rows_without_a_ratio(broken):
    ours, theirs = {0: 1.0, 1: 2.0, 2: 3.0, 3: broken, 4: 3.5}, {0: 4.0, 1: broken, 2: 5.0, 3: 6.0, 4: 7.0}
    metric = forget_quality(ours, theirs, num_rows=9)
    assert (metric.value, metric.num_samples, metric.num_skipped) == (pytest.approx(2 / 70), 4, 5)
    assert metric.values == {"forget": {0: 1.0, 1: 2.0, 2: 3.0, 4: 3.5}}


@pytest.mark.parametrize(
    ("ours", "retrained", "reason"),
    [
        ({0: 1.0, 1: nan}, None, NO_RETRAINED),
        ({0: 1.0, 1: nan}, {}, NO_RETRAINED),
        ({0: 1.0, 1: nan}, {0: nan}, "the retrained model's results lack it: no row has a finite number"),
        ({}, {0: 1.0}, "no forget row has perturbed answers"),
        ({0: nan}, {0: 1.0}, "no row has a finite number"),
    ],
)
def test_forget_quality_is_undefined_without_ratios_of_both_models(ours, retrained, reason):
    metric = forget_quality(ours, retrained)
    assert (metric.value, metric.reason) == (None, reason)
    assert metric.values == ({"forget": {0: 1.0}} if 0 in ours and ours[0] == 1 else {})  # for a later comparison


def measured(metrics, sets=tuple(KEPT)):
    return Measured(metrics, sets={name: set_of(name=name, role=KEPT[name]) for name in sets} | {"forget": set_of()})


def parts(**values):
    """All nine parts at 1, but for these."""
    return {name: Metric(values.get(name, 1.0), num_samples=10, num_skipped=1) for name in NINE}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 1.0], 1.0), ([1.0, 0.5], 2 / 3), ([0.2, 0.4, 0.4], 3 / 10), ([1e-300, 1.0], 2e-300), ([0.0, 1.0], 0.0)],
)
def test_harmonic_mean_by_hand(values, expected):
    assert harmonic_mean(iter(values)) == pytest.approx(expected, abs=0)


@pytest.mark.parametrize("name", NINE)
def test_each_of_the_nine_parts_counts_once_and_nothing_else_does(name):
    others = {"forget_probability": Metric(0.1), "retain_exact_memorization": Metric(0.0)}
    metric = model_utility(measured(parts(**{name: 0.5}) | others))
    assert metric.value == pytest.approx(9 / (8 + 1 / 0.5))
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better, metric.reason) == (30, 3, True, None)
    assert model_utility(measured(parts(**{name: 0.0}))).value == 0.0


def test_a_suite_with_one_retain_set_has_three_parts():
    values = {"probability": (0.2, 4), "rouge": (0.4, 3), "truth_ratio": (0.4, 2)}
    metrics = {f"retain_{name}": Metric(value, num_samples=count) for name, (value, count) in values.items()}
    metric = model_utility(measured(metrics, ["retain"]))
    assert (metric.value, metric.num_samples) == (pytest.approx(0.3), 2)  # two rows have all three numbers


def test_a_part_that_is_lacking_leaves_no_utility_and_is_named_with_its_reason():
    metrics = parts()
    del metrics["retain_probability"]
    metrics["retain_rouge"] = unavailable("no row has a generation")
    for name in ("real_authors", "world_facts"):
        metrics[f"{name}_truth_ratio"] = unavailable("no row has perturbed answers")
    metric = model_utility(measured(metrics))
    assert (metric.value, metric.num_samples, metric.higher_is_better) == (None, 0, True)
    assert metric.reason == (
        "no retain_probability, retain_rouge, real_authors_truth_ratio, world_facts_truth_ratio "
        "(no row has a generation; no row has perturbed answers)"
    )
    without = model_utility(measured({}, []))
    assert (without.value, without.reason) == (None, "no retain_probability, retain_rouge, retain_truth_ratio")
