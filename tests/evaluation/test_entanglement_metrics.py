"""Overlap and shift of features: by hand, with the invariances they must have, and on data made to be told apart."""

from math import nan, sqrt

import numpy as np
import pytest

from egup_trainer.evaluation.entanglement import (
    centred_kernel_alignment,
    overlap,
    probe_auc,
    retain_shift,
    variance_ratio,
)

NO_FEATURES = "features were not read for both forget and retain rows"
NO_BEFORE = "no features of the model before unlearning"
CROSS = [[1, 0], [-1, 0], [0, 1], [0, -1]]


def array(rows):
    return np.array(rows, dtype=np.float32)


def cloud(seed, rows, size, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(rows, size)) + shift).astype(np.float32)


@pytest.fixture
def rotation():
    return np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]


@pytest.mark.parametrize(
    ("forget", "retain", "expected"),
    [
        # Means (1, 0), (4, 2), together (2.5, 1): 1 + 4 within, 3.25 + 3.25 between.
        ([[0, 0], [2, 0]], [[4, 0], [4, 4]], 5 / 6.5),
        # Sizes differ: means (1, 0), (6, 3), together (8/3, 1).
        ([[0, 0], [2, 0]], [[6, 3]], 1 / (34 / 9 + 136 / 9)),
        ([[0, 0], [0, 0]], [[1, 1]], 0.0),
    ],
)
def test_variance_ratio_by_hand(forget, retain, expected):
    metric = variance_ratio(array(forget), array(retain))
    assert metric.value == pytest.approx(expected)
    assert variance_ratio(array(retain), array(forget)).value == pytest.approx(expected)
    assert (metric.num_samples, metric.num_skipped) == (len(forget) + len(retain), 0)
    assert (metric.higher_is_better, metric.reason) == (None, None)


def test_variance_ratio_does_not_depend_on_rotation_place_or_scale(rotation):
    forget, retain = cloud(0, 20, 6).astype(float), cloud(1, 30, 6, 0.5).astype(float)
    value = variance_ratio(forget, retain).value
    for change in (lambda f: f @ rotation, lambda f: f + 7.0, lambda f: 0.01 * f, lambda f: f[::-1]):
        assert variance_ratio(change(forget), change(retain)).value == pytest.approx(value)


def test_sets_further_apart_are_less_entangled():
    values = [variance_ratio(cloud(0, 50, 4), cloud(1, 50, 4, shift)).value for shift in (0.5, 1.0, 4.0)]
    assert values == sorted(values, reverse=True)


def test_sets_of_one_mean_have_no_ratio():
    metric = variance_ratio(array(CROSS), array([[2, 0], [-2, 0]]))
    assert (metric.value, metric.num_samples) == (None, 0)
    assert metric.reason == "forget and retain features have the same mean, so that the ratio is infinite"


def test_a_probe_tells_sets_apart_that_lie_apart():
    metric = probe_auc(cloud(0, 40, 4), cloud(1, 60, 4, 3.0))
    assert metric.value > 0.99
    assert metric.interval[0] > 0.95
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (100, 0, None)
    assert (list(metric.values["forget"]), list(metric.values["retain"])) == (list(range(40)), list(range(60)))


def test_a_probe_cannot_tell_sets_of_one_distribution_apart():
    values = [probe_auc(cloud(2 * seed, 60, 4), cloud(2 * seed + 1, 60, 4)).value for seed in range(8)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_a_probe_judges_rows_that_it_did_not_see():
    # With more directions than rows, a probe tells any rows apart that it has seen.
    values = [probe_auc(cloud(2 * seed, 30, 100), cloud(2 * seed + 1, 30, 100)).value for seed in range(8)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)


def test_a_probe_does_not_depend_on_the_scale_of_a_feature_and_is_the_same_twice():
    forget, retain, scale = cloud(0, 30, 3), cloud(1, 30, 3, 0.5), np.array([1e4, 1.0, 1e-4], dtype=np.float32)
    value = probe_auc(forget, retain).value
    assert 0.5 < value < 0.95
    assert probe_auc(forget, retain).value == value
    assert probe_auc(forget * scale, retain * scale).value == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize(("forget", "retain"), [(4, 9), (9, 4), (0, 9)])
def test_a_probe_needs_a_row_of_each_set_in_each_fold(forget, retain):
    metric = probe_auc(cloud(0, forget, 3), cloud(1, retain, 3))
    assert (metric.value, metric.reason) == (None, "a set has fewer than 5 rows, one for each fold")
    assert probe_auc(cloud(0, 5, 3), cloud(1, 5, 3, 9.0)).value == 1.0


@pytest.mark.parametrize("metric", [variance_ratio, probe_auc, overlap])
@pytest.mark.parametrize(("forget", "retain"), [(None, array(CROSS)), (array(CROSS), None), (None, None)])
def test_no_overlap_without_features_of_both_sets(metric, forget, retain):
    found = metric(forget, retain)
    assert (found.value, found.higher_is_better, found.reason) == (None, None, NO_FEATURES)


def broken_at(rows, *places):
    """A copy in which a number of each of these rows is none."""
    copy = rows.copy()
    copy[list(places), 1] = nan
    return copy


@pytest.mark.parametrize("metric", [variance_ratio, probe_auc, overlap])
def test_rows_that_are_no_numbers_are_skipped_and_counted(metric):
    forget, retain = cloud(0, 12, 4), cloud(1, 12, 4)
    whole, part = metric(forget[2:], retain[:11]), metric(broken_at(forget, 0, 1), broken_at(retain, 11))
    assert part.value == pytest.approx(whole.value)
    assert (whole.num_samples, whole.num_skipped, part.num_samples, part.num_skipped) == (21, 0, 21, 3)


def test_kernel_alignment_leaves_out_rows_that_one_of_the_models_has_no_numbers_for():
    now, then = cloud(0, 20, 3), cloud(1, 20, 4)
    metric = centred_kernel_alignment(broken_at(now, 0), broken_at(then, 18, 19))
    assert metric.value == pytest.approx(centred_kernel_alignment(now[1:18], then[1:18]).value)
    assert (metric.num_samples, metric.num_skipped) == (17, 3)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (variance_ratio, "no features are finite numbers"),
        (overlap, "no features are finite numbers"),
        (centred_kernel_alignment, "no features are finite numbers"),
        (probe_auc, "a set has fewer than 5 rows, one for each fold"),
    ],
)
def test_features_that_are_no_numbers_give_none(metric, reason):
    rows, broken = cloud(0, 6, 3), broken_at(cloud(1, 6, 3), *range(6))
    for pair in ((broken, rows), (rows, broken)):
        assert (metric(*pair).value, metric(*pair).reason) == (None, reason)


def test_kernel_alignment_by_hand():
    # X'X = 2 I, Y'Y = diag(2, 0), X'Y = diag(2, 0): 4 / (2 sqrt(2) * 2).
    half = array([[1, 0], [-1, 0], [0, 0], [0, 0]])
    metric = centred_kernel_alignment(array(CROSS), half)
    assert metric.value == pytest.approx(1 / sqrt(2))
    assert centred_kernel_alignment(half, array(CROSS)).value == pytest.approx(1 / sqrt(2))
    assert (metric.num_samples, metric.higher_is_better, metric.reason) == (4, True, None)


def test_kernel_alignment_of_features_that_vary_over_other_rows_is_0():
    metric = centred_kernel_alignment(array([[1], [-1], [0], [0]]), array([[0, 3], [0, 3], [0, 4], [0, 2]]))
    assert metric.value == pytest.approx(0)


def test_kernel_alignment_does_not_depend_on_rotation_scale_or_place(rotation):
    features, before = cloud(0, 30, 6).astype(float), cloud(1, 30, 6).astype(float)
    assert centred_kernel_alignment(features, features).value == pytest.approx(1)
    assert centred_kernel_alignment(3 * features @ rotation + 5, features).value == pytest.approx(1)
    value = centred_kernel_alignment(features, before).value
    assert 0 < value < 0.7
    assert centred_kernel_alignment(-2 * features + 1, before @ rotation).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("features", "before", "reason"),
    [
        (None, array(CROSS), NO_FEATURES),
        (array(CROSS), None, NO_BEFORE),
        (array(CROSS), array(CROSS[:3]), NO_BEFORE),
        (array([[0.1, 2]] * 3), array(CROSS[:3]), "all rows have the same features"),
    ],
)
def test_no_kernel_alignment_without_what_it_needs(features, before, reason):
    metric = centred_kernel_alignment(features, before)
    assert (metric.value, metric.num_samples, metric.reason) == (None, 0, reason)


def test_overlap_by_hand():
    # Covariances I / 2 and diag(1, 0) / 2 over four rows: tr = 1/4, norms sqrt(2) / 2 and 1 / 2.
    half = array([[1, 0], [-1, 0], [0, 0], [0, 0]])
    metric = overlap(array(CROSS), half)
    assert metric.value == pytest.approx(1 / sqrt(2))
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (8, 0, None)


def test_overlap_is_1_for_the_same_directions_and_0_for_others():
    first, second = array([[1, 0], [-1, 0]]), array([[0, 1], [0, -1], [0, 5]])
    assert overlap(first, 3 * first + 7).value == pytest.approx(1)
    assert overlap(first, second).value == pytest.approx(0)


def test_overlap_turns_with_the_space_and_counts_rows_that_are_no_numbers(rotation):
    forget, retain = cloud(0, 12, 6), cloud(1, 20, 6)
    value = overlap(forget, retain).value
    assert overlap(forget @ rotation, retain @ rotation).value == pytest.approx(value, rel=1e-5)
    broken = overlap(np.concatenate([forget, [[nan] * 6]]), retain)
    assert broken.value == pytest.approx(value)
    assert (broken.num_samples, broken.num_skipped) == (32, 1)


def test_no_overlap_where_a_set_does_not_vary():
    assert overlap(array([[1, 2]] * 3), array(CROSS)).reason == "all rows of a set have the same features"


def test_the_shift_of_retain_features_by_hand():
    now = array([[1, 0], [0, 2], [3, 3], [-1, 0]])
    before = array([[5, 0], [1, 0], [1, 0], [2, 0]])  # the same way, orthogonal, 45 degrees, the other way
    metric = retain_shift(now, before)
    assert metric.values == {"retain": pytest.approx({0: 0, 1: 1, 2: 1 - 1 / sqrt(2), 3: 2}, abs=1e-12)}
    assert metric.value == pytest.approx((0 + 1 + 1 - 1 / sqrt(2) + 2) / 4)
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (4, 0, False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("broken", [[0, 0], [nan, 1]])
def test_a_feature_without_a_direction_is_skipped_and_counted(broken):
    metric = retain_shift(array([[1, 0], broken]), array([[0, 1], [1, 1]]))
    assert metric.values == {"retain": {0: 1.0}}
    assert (metric.value, metric.num_samples, metric.num_skipped) == (1.0, 1, 1)


@pytest.mark.parametrize(
    ("retain", "before", "reason"),
    [
        (None, array(CROSS), NO_FEATURES),
        (array(CROSS), None, NO_BEFORE),
        (array([[0, 0]]), array([[1, 0]]), "no row has a finite number"),
    ],
)
def test_no_shift_without_what_it_needs(retain, before, reason):
    metric = retain_shift(retain, before)
    assert (metric.value, metric.higher_is_better, metric.reason) == (None, False, reason)
    assert retain_shift(array(CROSS), array(CROSS[:2])).value is None
