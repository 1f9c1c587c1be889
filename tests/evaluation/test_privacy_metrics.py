"""Membership inference, privleak and forget quality: by hand, in the right direction, never with a stand-in number."""

import zlib
from math import inf, log, nan

import numpy as np
import pytest
from fixtures_scores import set_of, shuffled, text
from hypothesis import given
from hypothesis import strategies as st

from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.privacy import (
    ATTACKS,
    attack,
    forget_quality,
    gradnorm,
    loss,
    lowest_mean,
    min_k,
    min_k_plus_plus,
    privleak,
    reference_attack,
    zlib_ratio,
)
from egup_trainer.evaluation.scores import SampleScores

NO_HOLDOUT = "no holdout rows (rows of the same kind that the model never saw)"
NO_RETRAINED = "no results of a retrained model"
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


def test_a_text_that_repeats_itself_is_shorter_to_zlib():
    once, often = (len(zlib.compress(answer)) for answer in (b"Ada lives in Aren.", b"Ada lives in Aren." * 5))
    assert once < often < 5 * once
    assert zlib_ratio(scored(3.0, size=once)) == pytest.approx(3 / once)
    assert zlib_ratio(scored(3.0, size=often)) == pytest.approx(3 / often)


@pytest.mark.parametrize(
    ("count", "lowest"),
    [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (7, 2), (8, 3), (10, 4), (100, 40)],
)
def test_min_k_reads_the_lowest_two_fifths_and_at_least_one(count, lowest):
    values = -np.random.default_rng(0).permutation(np.arange(1.0, count + 1))  # -1 to -count
    expected = sum(range(count - lowest + 1, count + 1)) / lowest
    assert lowest_mean(values) == pytest.approx(expected)


def test_min_k_leaves_the_scores_as_they_are():
    values = np.array([-1.0, -4.0, -2.0, -3.0, -5.0])
    lowest_mean(values)
    assert values.tolist() == [-1, -4, -2, -3, -5]


def test_equal_tokens_are_counted_one_by_one():
    assert lowest_mean(np.array([-1.0, -3.0, -1.0, -3.0, -2.0])) == pytest.approx(3.0)


@each_attack
def test_fully_memorised_rows_give_1_and_rows_that_are_pushed_below_those_never_seen_give_0(name):
    low, high = [0.01, 0.02, 0.3], [2.0, 3.0]
    assert attack(name, known(*low), known(*high, name="holdout")).value == 1.0
    assert attack(name, known(*high), known(*low, name="holdout")).value == 0.0
    assert attack(name, known(*low), known(*low, name="holdout")).value == 0.5


@each_attack
def test_an_attack_by_hand_with_ties(name):
    metric = attack(name, known(1.0, 2.0), known(2.0, 3.0, 0.5, name="holdout"))
    assert metric.value == pytest.approx((1 + 1 + 0 + 0.5 + 1 + 0) / 6)
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (5, 0, None)
    assert metric.interval[0] < metric.value < metric.interval[1]
    assert {name: list(values) for name, values in metric.values.items()} == {"forget": [0, 1], "holdout": [0, 1, 2]}


@each_attack
def test_without_holdout_rows_there_is_no_attack(name):
    metric = attack(name, known(1.0, 2.0), None)
    assert (metric.value, metric.interval, metric.reason) == (None, None, NO_HOLDOUT)
    assert list(metric.values["forget"]) == [0, 1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mia_gradnorm", "gradient norms cost a backward pass a row, and were not asked for"),
        ("mia_min_k_plus_plus", "standardised log-probabilities were not read"),
        ("mia_zlib", "no row has the number"),
    ],
)
def test_numbers_that_were_not_read_give_no_attack(name, reason):
    bare = set_of(scored(1.0, z=None), scored(2.0, z=None))
    metric = attack(name, bare, bare)
    assert (metric.value, metric.reason) == (None, reason)


@pytest.mark.parametrize("broken", [nan, inf])
def test_a_row_whose_number_is_not_finite_is_skipped_and_counted(broken):
    whole, part = losses([1.0, 2.0], [1.5]), losses([1.0, 2.0, broken], [1.5, broken])
    assert (whole.value, whole.num_samples, whole.num_skipped) == (0.5, 3, 0)
    assert (part.value, part.num_samples, part.num_skipped) == (0.5, 3, 2)


def test_an_attack_that_lacks_the_number_of_one_set_has_no_value():
    metric = losses([nan], [1.0])
    assert (metric.value, metric.reason) == (None, "no forget rows with this number")
    assert metric.values == {"forget": {}, "holdout": {0: pytest.approx(1.0)}}


@each_attack
@given(order=st.permutations(range(4)))
def test_the_order_of_rows_does_not_change_an_attack(name, order):
    rows, others = known(1.0, 0.5, 2.0, 3.0), known(2.0, 4.0, name="holdout")
    assert attack(name, shuffled(rows, order), others).value == attack(name, rows, others).value == 6.5 / 8


def test_the_reference_attack_by_hand():
    # Differences: forget -1, -0.5 against holdout -1, 0.
    ours, reference = losses([1.0, 2.5], [3.0, 4.0]), losses([2.0, 3.0], [4.0, 4.0])
    metric = reference_attack(ours, reference)
    assert metric.values == {"forget": pytest.approx({0: -1.0, 1: -0.5}), "holdout": pytest.approx({0: -1.0, 1: 0.0})}
    assert metric.value == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    assert (metric.num_samples, metric.num_skipped) == (4, 0)


def test_the_reference_attack_leaves_out_rows_that_one_model_has_no_number_for():
    metric = reference_attack(losses([1.0, 2.0, nan], [3.0, 5.0]), losses([1.0, 1.0, 1.0], [nan, 1.0]))
    assert metric.values == {"forget": pytest.approx({0: 0.0, 1: 1.0}), "holdout": pytest.approx({1: 4.0})}
    assert (metric.value, metric.num_samples, metric.num_skipped) == (1.0, 3, 2)


@pytest.mark.parametrize(
    ("ours", "reference", "reason"),
    [
        (losses([1.0], [2.0]), None, "no results of a reference model"),
        (losses([1.0], [2.0]), losses([nan], [2.0]), "no forget rows with this number"),
        (attack("mia_loss", known(1.0), None), attack("mia_loss", known(1.0), None), NO_HOLDOUT),
    ],
)
def test_no_reference_attack_without_what_it_needs(ours, reference, reason):
    metric = reference_attack(ours, reference)
    assert (metric.value, metric.reason) == (None, reason)


@pytest.mark.parametrize(
    ("auc", "retrained", "expected"),
    [
        (1.0, 0.5, -100.0),  # fully remembered
        (0.9, 0.5, -80.0),
        (0.5, 0.5, 0.0),
        (0.25, 0.5, 50.0),  # conspicuously unlikely
        (0.0, 0.5, 100.0),
        (0.6, 0.2, -50.0),
        (0.5, 1.0, 100 * 0.5 / 1e-10),
    ],
)
def test_privleak_by_hand(auc, retrained, expected):
    metric = privleak(Metric(auc, None, num_samples=7, num_skipped=2), Metric(retrained, None))
    assert metric.value == pytest.approx(expected)
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (7, 2, None)


@pytest.mark.parametrize(
    ("auc", "retrained", "reason"),
    [
        (Metric(0.5, None), None, NO_RETRAINED),
        (unavailable(NO_HOLDOUT, None), Metric(0.5, None), NO_HOLDOUT),
        (unavailable(NO_HOLDOUT, None), None, NO_HOLDOUT),
        (
            Metric(0.5, None),
            unavailable("no forget rows with this number", None),
            "the retrained model's results lack it: no forget rows with this number",
        ),
    ],
)
def test_no_privleak_without_both_attacks(auc, retrained, reason):
    metric = privleak(auc, retrained)
    assert (metric.value, metric.reason) == (None, reason)


@pytest.mark.parametrize(
    ("ratios", "retrained", "expected"),
    [
        ([1, 2, 3, 4], [5, 6, 7, 8], 2 / 70),  # the two most extreme of 8 over 4 orders
        ([5, 6, 7, 8], [1, 2, 3, 4], 2 / 70),  # two-sided
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),
        ([1, 2], [3, 4, 5, 6, 7, 8, 9, 10], 2 / 45),  # sizes may differ
        ([1, 3, 5, 7], [2, 4, 6, 8], 1.0),
        ([0.5, 0.7, 0.9, 1.1], [0.5, 0.7, 0.9, 1.1], 1.0),
    ],
)
def test_forget_quality_by_hand(ratios, retrained, expected):
    metric = forget_quality(dict(enumerate(ratios)), dict(enumerate(retrained)))
    assert metric.value == pytest.approx(expected)
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (len(ratios), 0, True)
    assert metric.values == {"forget": dict(enumerate(map(float, ratios)))}
    assert (metric.interval, metric.reason) == (None, None)


def test_forget_quality_reads_distributions_not_pairs():
    ratios = {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.7}
    assert forget_quality(ratios, {0: 0.9, 7: 0.1, 3: 0.5, 4: 0.7}).value == 1.0


@pytest.mark.parametrize(("ours", "theirs", "least"), [(1, 1, "1"), (2, 2, "0.33"), (3, 3, "0.1"), (2, 6, "0.071")])
def test_forget_quality_of_so_few_rows_that_nothing_could_be_told_apart_is_none(ours, theirs, least):
    """One to three ratios that have nothing in common with the retrained model's were 1.0, .33 and .1 likely alike."""
    metric = forget_quality(dict(enumerate(range(ours))), dict(enumerate(range(90, 90 + theirs))))
    assert (metric.value, metric.num_samples, metric.num_skipped) == (None, 0, ours)
    assert metric.reason == (
        f"too few rows: of {ours} and {theirs} truth ratios the test's p-value is {least} or more, whatever they are"
    )
    assert metric.values == {"forget": dict(enumerate(map(float, range(ours))))}  # for other results to compare with


@pytest.mark.parametrize("broken", [nan, inf])
def test_forget_quality_skips_what_is_not_finite_and_counts_rows_without_a_ratio(broken):
    ours, theirs = {0: 1.0, 1: 2.0, 2: 3.0, 3: broken, 4: 3.5}, {0: 4.0, 1: broken, 2: 5.0, 3: 6.0, 4: 7.0}
    metric = forget_quality(ours, theirs, num_rows=9)
    assert (metric.value, metric.num_samples, metric.num_skipped) == (pytest.approx(2 / 70), 4, 5)
    assert metric.values == {"forget": {0: 1.0, 1: 2.0, 2: 3.0, 4: 3.5}}


@pytest.mark.parametrize("retrained", [None, {}, {0: nan}])
def test_forget_quality_is_undefined_without_a_retrained_model(retrained):
    metric = forget_quality({0: 1.0, 1: nan}, retrained)
    assert (metric.value, metric.interval) == (None, None)
    assert metric.values == {"forget": {0: 1.0}}  # for a retrained model that comes later


@pytest.mark.parametrize("retrained", [None, {}])
def test_forget_quality_says_what_is_lacking(retrained):
    assert forget_quality({0: 1.0}, retrained).reason == NO_RETRAINED
    assert forget_quality({}, retrained).reason == "no forget row has perturbed answers"
    assert forget_quality({}, {0: 1.0}).value is None


@given(st.permutations(range(5)))
def test_the_order_of_ratios_does_not_change_forget_quality(order):
    ratios, retrained = [0.1, 0.9, 0.3, 0.3, 2.0], {0: 0.2, 1: 0.8, 2: 1.5}
    mixed = {9 - place: ratios[old] for place, old in enumerate(order)}
    assert forget_quality(mixed, retrained).value == forget_quality(dict(enumerate(ratios)), retrained).value
