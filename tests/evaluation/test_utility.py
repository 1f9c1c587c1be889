"""Model utility: a harmonic mean of named parts, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.utility import harmonic_mean, model_utility

NINE = [
    f"{row_set}_{part}"
    for row_set in ("retain", "real_authors", "world_facts")
    for part in ("probability", "rouge", "truth_ratio")
]


def parts(**values):
    """All nine parts at 1, but for these."""
    return {name: Metric(values.get(name, 1.0), True, num_samples=10, num_skipped=1) for name in NINE}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 1.0], 1.0), ([1.0, 0.5], 2 / 3), ([0.2, 0.4, 0.4], 3 / 10), ([0.25], 0.25), ([1e-300, 1.0], 2e-300)],
)
def test_harmonic_mean_by_hand(values, expected):
    assert harmonic_mean(values) == pytest.approx(expected, abs=0)
    assert harmonic_mean(iter(values)) == pytest.approx(expected, abs=0)


@pytest.mark.parametrize("values", [[0.0], [0.0, 1.0], [1.0, 0.0, 0.0]])
def test_one_0_gives_0(values):
    assert harmonic_mean(values) == 0.0


@pytest.mark.parametrize("name", NINE)
def test_each_of_the_nine_parts_has_one_voice(name):
    metric = model_utility(parts(**{name: 0.5}))
    assert metric.value == pytest.approx(9 / (8 + 1 / 0.5))
    assert model_utility(parts(**{name: 0.0})).value == 0.0


def test_other_metrics_have_no_voice_in_model_utility():
    others = {"forget_probability": Metric(0.1, False), "retain_exact_memorization": Metric(0.0, True)}
    assert model_utility(parts() | others).value == pytest.approx(1.0)


def test_model_utility_counts_the_rows_of_its_parts():
    metric = model_utility(parts())
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better, metric.reason) == (30, 3, True, None)


def test_a_suite_with_one_retain_set_has_three_parts():
    metrics = {
        "retain_probability": Metric(0.2, True, num_samples=4),
        "retain_rouge": Metric(0.4, True, num_samples=3),
        "retain_truth_ratio": Metric(0.4, True, num_samples=2),
    }
    metric = model_utility(metrics, sets=("retain",))
    assert (metric.value, metric.num_samples) == (pytest.approx(0.3), 2)  # two rows have all three numbers


def test_a_part_that_is_lacking_leaves_no_utility_and_is_named_with_its_reason():
    metrics = parts()
    del metrics["retain_probability"]
    metrics["retain_rouge"] = unavailable("no row has a prompt to write on from", True)
    metrics["real_authors_truth_ratio"] = unavailable("no row has perturbed answers", True)
    metrics["world_facts_truth_ratio"] = unavailable("no row has perturbed answers", True)
    metric = model_utility(metrics)
    assert (metric.value, metric.num_samples, metric.higher_is_better) == (None, 0, True)
    assert metric.reason == (
        "no retain_probability, retain_rouge, real_authors_truth_ratio, world_facts_truth_ratio "
        "(no row has a prompt to write on from; no row has perturbed answers)"
    )


def test_a_part_that_nobody_computed_is_named_alone():
    metric = model_utility({}, sets=("retain",))
    assert (metric.value, metric.reason) == (None, "no retain_probability, retain_rouge, retain_truth_ratio")


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
def test_a_harmonic_mean_lies_between_its_smallest_part_and_their_mean(values):
    assert min(values) * (1 - 1e-9) <= harmonic_mean(values) <= sum(values) / len(values) * (1 + 1e-9)
    assert harmonic_mean(reversed(values)) == pytest.approx(harmonic_mean(values))
