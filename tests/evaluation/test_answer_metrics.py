"""Probability, ROUGE, truth ratio, exact memorization and extraction strength, by hand."""

from math import exp, log, nan

import numpy as np
import pytest
from fixtures_scores import row, set_of, text
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from egup_trainer.evaluation.metrics.memorization import exact_memorization, extraction_strength, strength
from egup_trainer.evaluation.metrics.probability import probability
from egup_trainer.evaluation.metrics.rouge import MUSE_ROUGE, TOFU_ROUGE, RougeForm, rouge, rouge_score
from egup_trainer.evaluation.metrics.truth_ratio import (
    TruthRatioForm,
    raw_truth_ratio,
    raw_truth_ratios,
    truth_probability,
    truth_ratio,
    truth_ratio_value,
    wrong_probability,
)
from egup_trainer.evaluation.scores import RowRole, SampleScores

EPS = 1e-10
CHOICE = {"name": "world_facts", "role": RowRole.CHOICE}


def options(right, *wrong, **fields):
    return row(right, perturbed=tuple(text(each) for each in wrong), **fields)


def written(generation, *references):
    return row(0.5, generation=generation, references=references)


def test_probability_is_the_mean_over_rows_whatever_their_length():
    assert text(0.5, 0.125).mean_nll == pytest.approx((log(2) + log(8)) / 2)
    metric = probability(set_of(row(0.5, 0.125), row(1.0, 1.0, 1.0, 1.0)))
    assert metric.value == pytest.approx((0.25 + 1) / 2)
    assert metric.values == {"forget": pytest.approx({0: 0.25, 1: 1.0})}
    assert (metric.num_samples, metric.num_skipped) == (2, 0)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([SampleScores((text(0.5, 0.125), text(0.75)))], (0.25 + 0.75) / 2),  # several right answers
        ([row(0.0, 0.5), row(0.5)], 0.25),  # an impossible answer
        ([row(1.0, 1.0, exp(-3))], exp(-1)),  # the last token counts
    ],
)
def test_probability_by_hand(rows, expected):
    assert probability(set_of(*rows)).value == pytest.approx(expected)


def test_probability_among_options_by_hand():
    metric = probability(set_of(options(0.2, 0.1, 0.3), options(0.5, 0.5), row(0.9), **CHOICE))
    assert metric.values["world_facts"] == pytest.approx({0: 0.2 / (0.6 + EPS), 1: 0.5 / (1 + EPS)}, rel=1e-12)
    assert metric.value == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert (metric.num_samples, metric.num_skipped) == (2, 1)


@pytest.mark.parametrize(("right", "wrong", "expected"), [(EPS, EPS, 1 / 3), (0.0, 0.0, 0.0), (0.0, 0.5, 0.0)])
def test_probability_among_options_that_are_all_next_to_impossible(right, wrong, expected):
    assert probability(set_of(options(right, wrong), **CHOICE)).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "by_role"),
    [
        (probability, {RowRole.FORGET: False, RowRole.RETAIN: True, RowRole.CHOICE: True, RowRole.UNSEEN: None}),
        (rouge, {RowRole.FORGET: False, RowRole.RETAIN: True, RowRole.CHOICE: True}),
        (truth_ratio, {RowRole.FORGET: True, RowRole.RETAIN: True, RowRole.CHOICE: True}),
        (truth_probability, {RowRole.FORGET: None, RowRole.RETAIN: True, RowRole.CHOICE: True}),
        (exact_memorization, {RowRole.FORGET: False, RowRole.RETAIN: True}),
        (extraction_strength, {RowRole.FORGET: False, RowRole.RETAIN: True}),
    ],
)
def test_which_way_is_good_depends_on_the_role_of_the_rows(metric, by_role):
    for role, expected in by_role.items():
        for rows in ([options(0.5, 0.5, generation="a", references=("a",))], []):  # also for a metric without a value
            assert metric(set_of(*rows, role=role)).higher_is_better is expected


@pytest.mark.parametrize(
    ("reference", "generated", "form", "expected"),
    [
        ("in the old town", "in town", TOFU_ROUGE, 2 / 4),
        ("in the old town", "in town", MUSE_ROUGE, 2 * 1 * 0.5 / 1.5),
        ("in the old town", "in town", RougeForm(part="precision"), 1.0),
        ("in the old town", "town old the in", TOFU_ROUGE, 1 / 4),  # a subsequence keeps its order
        ("in the old town", "town old the in", RougeForm("rouge1"), 4 / 4),
        ("two cats", "two cat", TOFU_ROUGE, 2 / 2),
        ("two cats", "two cat", MUSE_ROUGE, 1 / 2),  # the original MUSE does not stem
        ("two cats", "", TOFU_ROUGE, 0.0),
        ("In TOWN!", "in town", TOFU_ROUGE, 1.0),
        ("阿达住在", "阿达在", TOFU_ROUGE, 3 / 4),  # each character is a word
        ("Она живёт в Риге", "живёт в риге", TOFU_ROUGE, 3 / 4),  # capitals do not count
        ("Ada Lorn (阿达)", "Ada lives. 阿", TOFU_ROUGE, 2 / 4),
        ("José", "Jos", TOFU_ROUGE, 0.0),  # rouge-score's own tokenizer takes them for the same
        ("José", "Jose\u0301", TOFU_ROUGE, 1.0),  # composed or not
        ("रहती", "रहता", TOFU_ROUGE, 0.0),  # combining marks belong to their word
        ("خباز من برايل", "خباز من برايل", TOFU_ROUGE, 1.0),
        ("เธออยู่ที่กรุงเทพ", "เธออยู่ที่กรุงเทพ", MUSE_ROUGE, 1.0),
    ],
)
def test_rouge_by_hand(reference, generated, form, expected):
    assert rouge_score(reference, generated, form) == pytest.approx(expected)


@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)), st.booleans())
def test_rouge_of_ascii_text_is_that_of_rouge_score(reference, generated, use_stemmer):
    form = RougeForm(use_stemmer=use_stemmer)
    expected = RougeScorer(["rougeL"], use_stemmer=use_stemmer).score(reference, generated)["rougeL"].recall
    assert rouge_score(reference, generated, form) in ((expected,) if any(map(str.isalnum, reference)) else (None,))


def test_rouge_takes_the_best_of_several_answers_and_skips_what_has_no_words_or_no_generation():
    rows = [written("in town", "on the hill", "in the old town"), written("no", "yes"), written("", "yes")]
    rows += [row(0.5, references=("yes",)), written("Hi", "👍"), written("Hi", "👍", "Hi")]
    metric = rouge(set_of(*rows))
    assert metric.values == {"forget": {0: 0.5, 1: 0.0, 2: 0.0, 5: 1.0}}
    assert (metric.value, metric.num_samples, metric.num_skipped) == (1.5 / 4, 4, 2)
    assert rouge(set_of(rows[1], rouge=RougeForm("rouge1"))).value == 0.0


def test_rouge_has_the_form_that_the_set_asks_for():
    answered = written("in town", "in the old town")
    assert rouge(set_of(answered)).value == pytest.approx(1 / 2)
    assert rouge(set_of(answered, rouge=MUSE_ROUGE)).value == pytest.approx(2 / 3)


def test_raw_truth_ratios_by_hand():
    assert wrong_probability([log(2), log(8)]) == pytest.approx(0.25)  # a geometric mean
    assert raw_truth_ratio(log(2), [log(2), log(8)]) == pytest.approx(0.25 / (0.5 + EPS), rel=1e-12)
    assert raw_truth_ratio(1e4, [log(2)]) == pytest.approx(0.5 / EPS)
    wrong = (text(0.5, 0.5, 0.5), text(0.125))  # token counts differ: each wrong answer counts once
    rows = row(0.9, paraphrase=text(0.5), perturbed=wrong), row(0.125, perturbed=wrong), row(0.7)
    assert raw_truth_ratios(set_of(*rows)) == pytest.approx({0: 0.25 / 0.5, 1: 0.25 / 0.125}, rel=1e-8)


@pytest.mark.parametrize(
    ("ratio", "forget", "truth", "share"),
    [
        (0.25, 0.25, 0.75, 0.8),
        (1.0, 1.0, 0.0, 0.5),
        (4.0, 0.25, 0.0, 0.2),
        (0.0, 0.0, 1.0, 1.0),
        (1e9, 1e-9, 0.0, 1e-9),
    ],
)
def test_the_three_forms_of_a_truth_ratio(ratio, forget, truth, share):
    assert truth_ratio_value(ratio, TruthRatioForm.FORGET) == pytest.approx(forget, rel=1e-8)
    assert truth_ratio_value(ratio, TruthRatioForm.TRUTH) == pytest.approx(truth)
    assert truth_ratio_value(ratio, TruthRatioForm.PROBABILITY) == pytest.approx(share, rel=1e-8)


@pytest.mark.parametrize(
    ("metric", "name", "values"),
    [
        (truth_ratio, "forget", {0: 0.5, 1: 0.5}),
        (truth_ratio, "retain", {0: 0.5, 1: 0.0}),
        (truth_probability, "retain", {0: 2 / 3, 1: 1 / 3}),
    ],
)
def test_the_truth_ratio_is_the_mean_over_rows(metric, name, values):
    rows = options(0.9, 0.25, paraphrase=text(0.5)), options(0.25, 0.5), row(0.9)
    found = metric(set_of(*rows, name=name))
    assert found.values == {name: pytest.approx(values, rel=1e-8)}
    assert found.value == pytest.approx(sum(values.values()) / 2, rel=1e-8)
    assert (found.num_samples, found.num_skipped) == (2, 1)


def test_truth_probability_has_epsilon_in_the_whole_denominator():
    assert truth_probability(set_of(options(EPS, EPS))).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("greedy", "exact", "extracted"),
    [
        ("1111", 1.0, 1.0),
        ("0111", 3 / 4, 3 / 4),
        ("1011", 3 / 4, 2 / 4),
        ("1110", 3 / 4, 0.0),  # the last token is missed: nothing is extracted, not 1/4
        ("0000", 0.0, 0.0),
        ("1", 1.0, 1.0),
    ],
)
def test_exact_memorization_and_extraction_strength_by_hand(greedy, exact, extracted):
    scores = set_of(SampleScores((text(*[0.5] * len(greedy), greedy=greedy), text(0.5, greedy="0"))))
    assert exact_memorization(scores).value == pytest.approx(exact)
    assert extraction_strength(scores).value == pytest.approx(extracted)


def test_memorization_is_the_mean_over_rows_not_over_tokens():
    scores = set_of(SampleScores((text(*[0.5] * 4, greedy="0000"),)), SampleScores((text(0.5, greedy="1"),)))
    for metric in (exact_memorization(scores), extraction_strength(scores)):
        assert (metric.value, metric.values) == (0.5, {"forget": {0: 0.0, 1: 1.0}})


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_extraction_strength_is_that_of_the_definition(matches):
    n = len(matches)
    assert strength(np.array(matches)) == pytest.approx(next((1 - k / n for k in range(n) if all(matches[k:])), 0.0))


@pytest.mark.parametrize(
    ("metric", "rows", "reason"),
    [
        (probability, [], "no row has a scored answer"),
        (truth_ratio, [row(0.5)], "no row has perturbed answers"),
        (truth_probability, [row(0.5)], "no row has perturbed answers"),
        (rouge, [row(0.5)], "no row has a generation"),
        (rouge, [written("Hi", "👍")], "no answer has words that ROUGE could count"),
        (exact_memorization, [], "no row has a scored answer before the token that closes it"),
        (extraction_strength, [], "no row has a scored answer before the token that closes it"),
    ],
)
def test_what_cannot_be_computed_says_why(metric, rows, reason):
    found = metric(set_of(*rows))
    assert (found.value, found.interval, found.num_samples, found.reason) == (None, None, 0, reason)


@pytest.mark.parametrize("broken", [options(nan, 0.2), options(0.5, nan), options(0.5, 0.2, nan)])
@pytest.mark.parametrize(
    ("metric", "role"),
    [(probability, RowRole.CHOICE), (truth_ratio, None), (truth_ratio, RowRole.RETAIN), (truth_probability, None)],
)
def test_a_number_that_is_not_finite_is_skipped_and_counted(metric, role, broken):
    sound = options(0.6, 0.3)
    alone, together = metric(set_of(sound, role=role)), metric(set_of(sound, broken, role=role))
    assert together.value == pytest.approx(alone.value)
    assert (together.num_samples, together.num_skipped) == (1, 1)
    assert metric(set_of(options(nan, nan), role=role)).value is None
