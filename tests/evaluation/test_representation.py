"""Overlap and shift of features: by hand, with the invariances they must have, and on data made to be distinguished."""

from math import nan, sqrt

import numpy as np
import pytest

from egup_trainer.evaluation.metric_registry import Measured, declared_metrics
from egup_trainer.evaluation.metrics.representation import (
    centred_kernel_alignment,
    overlap,
    probe_auc,
    retain_shift,
    variance_ratio,
)

NO_FEATURES = "features were not read for both forget and retain rows"
NO_BEFORE = "no features of the model before unlearning"


def array(rows):
    return np.array(rows, dtype=np.float32)


def cloud(seed, rows, size, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(rows, size)) + shift).astype(np.float32)


def broken_at(rows, *indices):
    """A copy in which a number of each of these rows is nan."""
    copy = rows.copy()
    copy[list(indices), 1] = nan
    return copy


CROSS = array([[1, 0], [-1, 0], [0, 1], [0, -1]])
HALF = array([[1, 0], [-1, 0], [0, 0], [0, 0]])
BROKEN = broken_at(cloud(1, 6, 3), *range(6))
SOUND = cloud(0, 6, 3)


@pytest.fixture
def rotation():
    return np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]


@pytest.mark.parametrize(
    ("metric", "first", "second", "expected"),
    [
        # Means (1, 0), (4, 2), together (2.5, 1): 1 + 4 within, 3.25 + 3.25 between.
        (variance_ratio, [[0, 0], [2, 0]], [[4, 0], [4, 4]], 5 / 6.5),
        # Sizes differ: means (1, 0), (6, 3), together (8/3, 1).
        (variance_ratio, [[0, 0], [2, 0]], [[6, 3]], 1 / (34 / 9 + 136 / 9)),
        (variance_ratio, [[0, 0], [0, 0]], [[1, 1]], 0.0),
        # Covariances I / 2 and diag(1, 0) / 2 over four rows: tr = 1/4, norms sqrt(2) / 2 and 1 / 2.
        (overlap, CROSS, HALF, 1 / sqrt(2)),
        # X'X = 2 I, Y'Y = diag(2, 0), X'Y = diag(2, 0): 4 / (2 sqrt(2) * 2).
        (centred_kernel_alignment, CROSS, HALF, 1 / sqrt(2)),
        # Features that vary over other rows.
        (centred_kernel_alignment, [[1], [-1], [0], [0]], [[0, 3], [0, 3], [0, 4], [0, 2]], 0.0),
    ],
)
def test_by_hand(metric, first, second, expected):
    first, second = array(first), array(second)
    found = metric(first, second)
    assert found.value == pytest.approx(expected)
    assert metric(second, first).value == pytest.approx(expected)
    used = len(first) if metric is centred_kernel_alignment else len(first) + len(second)
    assert (found.num_samples, found.num_skipped, found.reason) == (used, 0, None)


def test_values_do_not_depend_on_rotation_offset_or_scale(rotation):
    forget, retain = cloud(0, 30, 6).astype(float), cloud(1, 30, 6, 0.5).astype(float)
    for metric in (variance_ratio, overlap, centred_kernel_alignment):
        value = metric(forget, retain).value
        for change in (lambda f: f @ rotation, lambda f: f + 7.0, lambda f: 0.01 * f, lambda f: f[::-1]):
            assert metric(change(forget), change(retain)).value == pytest.approx(value)
    alignment = centred_kernel_alignment(forget, retain).value
    assert 0 < alignment < 0.7
    assert centred_kernel_alignment(-2 * forget + 1, retain @ rotation).value == pytest.approx(alignment)
    assert centred_kernel_alignment(3 * forget @ rotation + 5, forget).value == pytest.approx(1)


def test_sets_further_apart_are_less_entangled():
    values = [variance_ratio(cloud(0, 50, 4), cloud(1, 50, 4, shift)).value for shift in (0.5, 1.0, 4.0)]
    assert values == sorted(values, reverse=True)


def test_overlap_is_1_for_the_same_directions_and_0_for_orthogonal_ones():
    features = cloud(0, 20, 6)
    assert overlap(features, 3 * features + 5).value == pytest.approx(1)
    first, second = (np.concatenate(parts, axis=1) for parts in ((features, 0 * features), (0 * features, features)))
    assert overlap(first, second).value == pytest.approx(0)


def test_a_probe_distinguishes_sets_that_lie_apart_whatever_the_scale_of_a_feature():
    metric = probe_auc(cloud(0, 40, 4), cloud(1, 60, 4, 3.0))
    assert metric.value > 0.99
    assert metric.interval[0] > 0.95
    assert (metric.num_samples, metric.num_skipped) == (100, 0)
    assert (list(metric.values["forget"]), list(metric.values["retain"])) == (list(range(40)), list(range(60)))
    forget, retain, scale = cloud(0, 30, 3), cloud(1, 30, 3, 0.5), array([1e4, 1.0, 1e-4])
    value = probe_auc(forget, retain).value
    assert 0.5 < value < 0.95
    assert probe_auc(forget * scale, retain * scale).value == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize("size", [4, 100])  # with more directions than rows, a probe separates any rows it has seen
def test_a_probe_judges_rows_that_it_did_not_see(size):
    values = [probe_auc(cloud(2 * seed, 30, size), cloud(2 * seed + 1, 30, size)).value for seed in range(8)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("metric", [variance_ratio, probe_auc, overlap])
def test_rows_that_are_not_finite_are_skipped_and_counted(metric):
    forget, retain = cloud(0, 12, 4), cloud(1, 12, 4)
    whole, part = metric(forget[2:], retain[:11]), metric(broken_at(forget, 0, 1), broken_at(retain, 11))
    assert part.value == pytest.approx(whole.value)
    assert (whole.num_samples, whole.num_skipped, part.num_samples, part.num_skipped) == (21, 0, 21, 3)


def test_kernel_alignment_leaves_out_rows_that_are_not_finite_in_one_of_the_models():
    now, then = cloud(0, 20, 3), cloud(1, 20, 4)
    metric = centred_kernel_alignment(broken_at(now, 0), broken_at(then, 18, 19))
    assert metric.value == pytest.approx(centred_kernel_alignment(now[1:18], then[1:18]).value)
    assert (metric.num_samples, metric.num_skipped) == (17, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("broken", [[0, 0], [nan, 1]])  # neither has a direction
def test_the_shift_of_retain_features_by_hand(broken):
    now = array([[1, 0], [0, 2], [3, 3], [-1, 0], broken])
    before = array([[5, 0], [1, 0], [1, 0], [2, 0], [1, 1]])  # the same way, orthogonal, 45 degrees, the other way
    metric = retain_shift(now, before)
    assert metric.values == {"retain": pytest.approx({0: 0, 1: 1, 2: 1 - 1 / sqrt(2), 3: 2}, abs=1e-12)}
    assert metric.value == pytest.approx((0 + 1 + 1 - 1 / sqrt(2) + 2) / 4)
    assert (metric.num_samples, metric.num_skipped) == (4, 1)


@pytest.mark.parametrize(
    ("metric", "first", "second", "reason"),
    [
        *((metric, None, CROSS, NO_FEATURES) for metric in (variance_ratio, probe_auc, overlap)),
        *((metric, CROSS, None, NO_FEATURES) for metric in (variance_ratio, probe_auc, overlap)),
        *((metric, None, CROSS, NO_FEATURES) for metric in (centred_kernel_alignment, retain_shift)),
        *((metric, CROSS, None, NO_BEFORE) for metric in (centred_kernel_alignment, retain_shift)),
        *((metric, CROSS, CROSS[:3], NO_BEFORE) for metric in (centred_kernel_alignment, retain_shift)),
        (centred_kernel_alignment, array([[0.1, 2]] * 3), CROSS[:3], "all rows have the same features"),
        (centred_kernel_alignment, CROSS[:2], HALF[:2], "fewer than 3 rows have finite features"),
        (overlap, array([[1, 2]] * 3), CROSS, "all rows of a set have the same features"),
        (variance_ratio, CROSS, array([[2, 0], [-2, 0]]), "the same mean"),
        (variance_ratio, CROSS[:1], CROSS[2:3], "one row of each set does not vary"),
        (retain_shift, array([[0, 0]]), array([[1, 0]]), "no row has a finite number"),
        *((probe_auc, cloud(0, f, 3), cloud(1, r, 3), "fewer than 5 rows") for f, r in ((4, 9), (9, 4), (0, 9))),
        (probe_auc, SOUND, BROKEN, "fewer than 5 rows"),
        *((m, SOUND, BROKEN, "no features are finite") for m in (variance_ratio, overlap, centred_kernel_alignment)),
        *((m, BROKEN, SOUND, "no features are finite") for m in (variance_ratio, overlap, centred_kernel_alignment)),
    ],
)
def test_what_cannot_be_computed_says_why(metric, first, second, reason):
    found = metric(first, second)
    assert (found.value, found.num_samples) == (None, 0)
    assert reason in found.reason


def test_each_metric_reads_the_features_of_the_sets_and_models_that_it_is_declared_for():
    forget, retain, before = cloud(0, 12, 4), cloud(1, 12, 4), cloud(2, 12, 4)
    model = Measured({}, {"forget": forget, "retain": retain})
    initial = Measured({}, {"forget": forget, "retain": before})
    declared = {spec.name: spec for spec in declared_metrics()}
    for name, number, higher_is_better in (
        ("entanglement_variance_ratio", variance_ratio(forget, retain), None),
        ("entanglement_probe_auc", probe_auc(forget, retain), None),
        ("entanglement_overlap", overlap(forget, retain), None),
        ("entanglement_retain_cka", centred_kernel_alignment(retain, before), True),
        ("entanglement_retain_shift", retain_shift(retain, before), False),
    ):
        models = (model,) if declared[name].other is None else (model, initial)
        found = declared[name].compute(*models)
        assert (found.value, found.higher_is_better) == (number.value, higher_is_better)
        assert found.value is not None
