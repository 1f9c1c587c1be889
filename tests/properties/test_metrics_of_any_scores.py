"""Every metric, of any scores: in its range or with a reason, each row once, whatever the order."""

from dataclasses import replace
from math import exp, isfinite

import numpy as np
import pytest
from fixtures_properties import FAR, TEXTS
from fixtures_scores import shuffled
from hypothesis import given, note, settings
from hypothesis import strategies as st

from egup_trainer.data.words import words_of
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.metric_registry import Measured
from egup_trainer.evaluation.metrics import fluency
from egup_trainer.evaluation.metrics.forget_quality import forget_quality
from egup_trainer.evaluation.metrics.membership_inference import (
    ATTACKS,
    attack,
    lowest_mean,
    privleak,
    reference_attack,
)
from egup_trainer.evaluation.metrics.memorization import exact_memorization, extraction_strength
from egup_trainer.evaluation.metrics.probability import probability
from egup_trainer.evaluation.metrics.rouge import MUSE_ROUGE, TOFU_ROUGE, rouge, rouge_score
from egup_trainer.evaluation.metrics.truth_ratio import (
    TruthRatioForm,
    raw_truth_ratios,
    truth_probability,
    truth_ratio,
    truth_ratio_value,
)
from egup_trainer.evaluation.scores import RowRole, SampleScores, SetScores, SetUse, TextScores
from egup_trainer.modeling.ks_test import LEVEL, least_p_value


def of_use(metric, **use):
    """The metric of a set that is used otherwise."""
    return lambda scores: metric(replace(scores, use=SetUse(**use)))


def of_generations(metric):
    return lambda scores: metric(Measured({}, sets={scores.name: replace(scores, use=SetUse(fluency=True))}))


SHARES = {
    "probability": probability,
    "options": of_use(probability, role=RowRole.CHOICE),
    "rouge of TOFU": of_use(rouge, rouge=TOFU_ROUGE),
    "rouge of MUSE": of_use(rouge, rouge=MUSE_ROUGE),
    "truth ratio, forget": of_use(truth_ratio, role=RowRole.FORGET),
    "truth ratio, retain": of_use(truth_ratio, role=RowRole.RETAIN),
    "truth probability": truth_probability,
    "exact memorization": exact_memorization,
    "extraction strength": extraction_strength,
    "distinct": of_generations(fluency.distinct),
    "repetition": of_generations(fluency.repetition),
}
"""Means over rows, each of which lies between 0 and 1."""
LEAST = 1e-9


@st.composite
def texts(draw):
    """Numbers of one text, from certain tokens to hopeless ones."""
    logps = draw(st.lists(st.floats(-FAR, 0), min_size=1, max_size=5))
    greedy_match = draw(st.lists(st.booleans(), min_size=len(logps), max_size=len(logps)))
    z = draw(st.lists(st.floats(-1e7, 1e7), min_size=len(logps), max_size=len(logps)))
    return TextScores(np.array(logps), np.array(greedy_match), np.array(z))


SAMPLES = st.builds(
    SampleScores,
    answers=st.lists(texts(), min_size=1, max_size=2).map(tuple),
    paraphrase=st.none() | texts(),
    perturbed=st.lists(texts(), max_size=3).map(tuple),
    references=st.lists(TEXTS, min_size=1, max_size=2).map(tuple),
    generation=st.none() | TEXTS,
    generation_nll=st.none() | st.floats(0, FAR),
    zlib_bytes=st.integers(9, 10_000),
    gradient_norm=st.floats(0, 1e6),
)


def sets(name="forget", most=4):
    """Row sets, also with rows that are alike."""
    return st.lists(SAMPLES | st.just(KNOWN), min_size=1, max_size=most).map(
        lambda rows: SetScores(name, dict(enumerate(rows)))
    )


KNOWN = SampleScores(
    (TextScores(np.zeros(2), np.ones(2, dtype=bool), np.zeros(2)),), zlib_bytes=9, gradient_norm=0.0, references=("a",)
)


def assert_in_range(found: Metric, scores: SetScores, least: float, most: float) -> None:
    """A value in its range with an interval around it, or none with a reason; each row counted once."""
    assert found.num_samples + found.num_skipped == len(scores)
    assert (found.value is None) == (found.reason is not None) == (found.num_samples == 0)
    numbers = [value for value in (found.value, *(found.interval or ())) if value is not None]
    assert all(least - LEAST <= value <= most * (1 + LEAST) for value in numbers)
    assert all(isfinite(value) for value in found.values.get("forget", {}).values())


@settings(max_examples=40)
@given(sets(), st.data())
def test_shares_lie_between_0_and_1_whatever_the_order_of_rows(scores, data):
    order = data.draw(st.permutations(range(len(scores))))
    for name, metric in SHARES.items():
        note(name)
        found, mixed = metric(scores), metric(shuffled(scores, order))
        assert_in_range(found, scores, 0, 1)
        assert mixed.value == (None if found.value is None else pytest.approx(found.value, rel=1e-12, abs=1e-15))
        assert mixed.num_samples == found.num_samples


@settings(max_examples=40)
@given(SAMPLES, st.integers(2, 5))
def test_of_identical_rows_a_mean_is_that_of_one_and_certain(row, count):
    for name, metric in SHARES.items():
        note(name)
        one, many = (metric(SetScores("forget", dict(enumerate([row] * times)))) for times in (1, count))
        assert many.num_samples == count * one.num_samples
        if one.value is not None:
            assert many.value == pytest.approx(one.value, rel=1e-12)
            assert many.interval == pytest.approx((one.value, one.value), rel=1e-12)


@settings(max_examples=40)
@given(sets())
def test_truth_ratios_are_finite_and_their_forms_agree(scores):
    for sample, ratio in raw_truth_ratios(scores).items():
        row = scores.samples[sample]
        right = (row.paraphrase or row.answers[0]).probability
        wrong = exp(np.mean([text.token_logps.mean() for text in row.perturbed]))
        assert ratio == pytest.approx(wrong / (right + 1e-10), rel=1e-9)
        shares = {form: truth_ratio_value(ratio, form) for form in TruthRatioForm}
        assert all(0 <= share <= 1 for share in shares.values())
        assert shares[TruthRatioForm.TRUTH] == (pytest.approx(1 - ratio) if ratio < 1 else 0)


@settings(max_examples=60)
@given(sets())
def test_a_perplexity_is_at_least_1_or_has_a_reason(scores):
    assert_in_range(of_generations(fluency.perplexity)(scores), scores, 1, np.finfo(float).max / 2)


@given(TEXTS, TEXTS)
def test_rouge_of_any_texts(reference, generated):
    for form in (TOFU_ROUGE, MUSE_ROUGE):
        found = rouge_score(reference, generated, form)
        assert found is None or 0 <= found <= 1
        itself = rouge_score(reference, reference, form)
        assert itself == (1 if words_of(reference) else None)
        longer = rouge_score(reference, f"{generated} {reference} {generated}", TOFU_ROUGE)
        assert longer == itself  # a recall


@given(st.lists(st.floats(-1e7, 1e7), min_size=1, max_size=12), st.data())
def test_the_lowest_are_those_of_the_sorted_numbers(values, data):
    count = max(1, int(0.4 * len(values)))
    expected = -sum(sorted(values)[:count]) / count
    found = lowest_mean(np.array(values))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert lowest_mean(np.array(data.draw(st.permutations(values)))) == pytest.approx(found, rel=1e-9, abs=1e-6)
    assert found >= -np.mean(values) - 1e-6


@settings(max_examples=40)
@given(sets(), sets("holdout"))
def test_attacks_lie_between_0_and_1_and_turn_round_with_the_sets(forget, holdout):
    for name in ATTACKS:
        note(name)
        found, turned = attack(name, forget, holdout), attack(name, holdout, forget)
        itself = attack(name, forget, SetScores("holdout", forget.samples))
        assert 0 <= found.value <= 1
        assert found.interval is None or 0 <= found.interval[0] <= found.interval[1] <= 1
        assert turned.value == pytest.approx(1 - found.value)
        assert itself.value == pytest.approx(0.5)
        assert found.num_samples == len(forget) + len(holdout)
        ours, theirs = (Measured({"mia_loss": each, "mia_min_k": each}) for each in (found, turned))
        assert reference_attack(ours, ours).value == 0.5  # nothing is left of it
        assert isfinite(privleak(ours, theirs).value)
        assert privleak(ours, ours).value == 0


RATIOS = st.lists(st.floats(0, 1e10), min_size=1, max_size=8)


@pytest.mark.filterwarnings("ignore:ks_2samp")  # where SciPy's exact p-value of 1 is rounded up, it approximates it
@given(RATIOS, RATIOS, st.data())
def test_forget_quality_is_a_p_value_of_two_samples_in_any_order(ratios, retrained, data):
    ours, theirs = (dict(enumerate(each)) for each in (ratios, retrained))
    found = forget_quality(ours, theirs).value
    if least_p_value(len(ours), len(theirs)) > LEVEL:
        assert found is None
        return
    assert 0 <= found <= 1
    mixed = dict(enumerate(data.draw(st.permutations(ratios))))
    assert forget_quality(mixed, theirs).value == pytest.approx(found, abs=1e-4)
    assert forget_quality(theirs, ours).value == pytest.approx(found, abs=1e-4)
    itself = forget_quality(ours, mixed).value
    assert itself == (pytest.approx(1, abs=1e-4) if len(ours) > 3 else None)
    doubled = ({row: 2 * ratio for row, ratio in each.items()} for each in (ours, theirs))
    assert forget_quality(*doubled).value == pytest.approx(found, abs=1e-4)  # only the order counts
