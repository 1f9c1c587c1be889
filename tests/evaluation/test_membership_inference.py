"""Membership inference and privleak: by hand, in the right direction, never with a stand-in number."""

import zlib
from math import inf, log, nan

import numpy as np
import pytest
from fixtures_scores import set_of, text

from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.metric_registry import Measured
from egup_trainer.evaluation.metrics.membership_inference import (
    ATTACKS,
    attack,
    gradnorm,
    loss,
    min_k,
    min_k_plus_plus,
    privleak,
    reference_attack,
    zlib_ratio,
)
from egup_trainer.evaluation.scores import SampleScores

NO_HOLDOUT = "no holdout rows (rows of the same kind that the model never saw)"
each_attack = pytest.mark.parametrize("name", ATTACKS)


def scored(nll, z=0.0, norm=None, size=None):
    """A row with one token of this negative log-likelihood."""
    tokens = text(np.exp(-nll), z=None if z is None else [z])
    return SampleScores((tokens,), gradient_norm=norm, zlib_bytes=size)


def known(*nlls, name="forget"):
    """Rows for which every attack has the same order: that of the negative log-likelihoods."""
    return set_of(*(scored(nll, z=-nll, norm=nll, size=10) for nll in nlls), name=name)


def losses(forget, holdout):
    """The loss attack between rows of these negative log-likelihoods."""
    return attack("mia_loss", known(*forget), known(*holdout, name="holdout"))


def reference_of(ours, theirs):
    others = None if theirs is None else Measured({"mia_loss": theirs})
    return reference_attack(Measured({"mia_loss": ours}), others)


def privleak_of(auc, retrained):
    others = None if retrained is None else Measured({"mia_min_k": retrained})
    return privleak(Measured({"mia_min_k": auc}), others)


def test_the_numbers_of_a_row_by_hand():
    answer = "Ada lives in Aren. Ada lives in Aren."
    tokens = text(0.5, 0.125, 1.0, 0.25, 0.0625, z=[0.5, -2.0, 3.0, -1.0, 0.0])
    size = len(zlib.compress(answer.encode("utf-8")))
    row = SampleScores((tokens, text(0.9)), zlib_bytes=size, gradient_norm=2.5)
    assert loss(row) == pytest.approx((1 + 3 + 0 + 2 + 4) * log(2) / 5)
    assert zlib_ratio(row) == pytest.approx(2 * log(2) / size)
    assert min_k(row) == pytest.approx((3 + 4) * log(2) / 2)  # int(.4 * 5) = 2 tokens
    assert min_k_plus_plus(row) == pytest.approx((2 + 1) / 2)
    assert gradnorm(row) == 2.5


@each_attack
def test_an_attack_by_hand(name):
    low, high = [0.01, 0.02, 0.3], [2.0, 3.0]
    assert attack(name, known(*low), known(*high, name="holdout")).value == 1.0  # fully memorised
    assert attack(name, known(*high), known(*low, name="holdout")).value == 0.0  # pushed below rows never seen
    metric = attack(name, known(1.0, 2.0), known(2.0, 3.0, 0.5, name="holdout"))
    assert metric.value == pytest.approx((1 + 1 + 0 + 0.5 + 1 + 0) / 6)
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (5, 0, None)
    assert metric.interval[0] < metric.value < metric.interval[1]
    assert {name: list(values) for name, values in metric.values.items()} == {"forget": [0, 1], "holdout": [0, 1, 2]}
    without = attack(name, known(1.0, 2.0), None)
    assert (without.value, without.interval, without.reason) == (None, None, NO_HOLDOUT)
    assert list(without.values["forget"]) == [0, 1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mia_gradnorm", "--gradient_norms"),
        ("mia_min_k_plus_plus", "not read"),
        ("mia_zlib", "no row has the number"),
    ],
)
def test_numbers_that_were_not_read_give_no_attack(name, reason):
    bare = set_of(scored(1.0, z=None), scored(2.0, z=None))
    metric = attack(name, bare, bare)
    assert metric.value is None
    assert reason in metric.reason


@pytest.mark.parametrize("broken", [nan, inf])
def test_a_row_whose_number_is_not_finite_is_skipped_and_counted(broken):
    part = losses([1.0, 2.0, broken], [1.5, broken])
    assert (part.value, part.num_samples, part.num_skipped) == (0.5, 3, 2)
    metric = losses([broken], [1.0])
    assert (metric.value, metric.reason) == (None, "no forget rows with this number")
    assert metric.values == {"forget": {}, "holdout": {0: pytest.approx(1.0)}}


def test_the_reference_attack_by_hand():
    # Differences: forget -1, -0.5 against holdout -1, 0; rows without a number under one of the models are left out.
    metric = reference_of(losses([1.0, 2.5, nan], [3.0, 4.0, 5.0]), losses([2.0, 3.0, 1.0], [4.0, 4.0, nan]))
    assert metric.values == {"forget": pytest.approx({0: -1.0, 1: -0.5}), "holdout": pytest.approx({0: -1.0, 1: 0.0})}
    assert metric.value == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    assert (metric.num_samples, metric.num_skipped) == (4, 2)


@pytest.mark.parametrize(
    ("ours", "reference", "reason"),
    [
        (losses([1.0], [2.0]), None, "no results of a reference model"),
        (losses([1.0], [2.0]), losses([nan], [2.0]), "no forget rows with this number"),
        (attack("mia_loss", known(1.0), None), attack("mia_loss", known(1.0), None), NO_HOLDOUT),
    ],
)
def test_no_reference_attack_without_what_it_needs(ours, reference, reason):
    metric = reference_of(ours, reference)
    assert (metric.value, metric.reason) == (None, reason)


@pytest.mark.parametrize(
    ("auc", "retrained", "expected"),
    [
        (1.0, 0.5, -100.0),  # fully remembered
        (0.9, 0.5, -80.0),
        (0.5, 0.5, 0.0),
        (0.25, 0.5, 50.0),  # conspicuously unlikely
        (0.6, 0.2, -50.0),
        (0.5, 1.0, 100 * 0.5 / 1e-10),
    ],
)
def test_privleak_by_hand(auc, retrained, expected):
    metric = privleak_of(Metric(auc, num_samples=7, num_skipped=2), Metric(retrained))
    assert metric.value == pytest.approx(expected)
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (7, 2, None)


@pytest.mark.parametrize(
    ("auc", "retrained", "reason"),
    [
        (Metric(0.5), None, "no results of a retrained model"),
        (unavailable(NO_HOLDOUT), Metric(0.5), NO_HOLDOUT),
        (unavailable(NO_HOLDOUT), None, NO_HOLDOUT),
        (Metric(0.5), unavailable("no rows"), "the retrained model's results lack it: no rows"),
    ],
)
def test_no_privleak_without_both_attacks(auc, retrained, reason):
    metric = privleak_of(auc, retrained)
    assert (metric.value, metric.reason) == (None, reason)
