"""Probability, ROUGE, truth ratio, exact memorization and extraction strength, by hand."""

from math import exp, log, nan

import numpy as np
import pytest
from fixtures_scores import row, set_of, shuffled, text
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from egup_trainer.evaluation import memorization
from egup_trainer.evaluation.memorization import (
    MUSE_ROUGE,
    TOFU_ROUGE,
    RougeForm,
    TruthRatioForm,
    raw_truth_ratio,
    raw_truth_ratios,
    rouge_score,
    strength,
    truth_ratio_value,
    wrong_probability,
)
from egup_trainer.evaluation.scores import SampleScores

EPS = 1e-10


def options(right, *wrong, **fields):
    return row(right, perturbed=tuple(text(each) for each in wrong), **fields)


def written(generation, *references):
    return row(0.5, generation=generation, references=references)


AGGREGATES = {
    "probability": lambda scores: memorization.probability(scores, True),
    "options": memorization.probability_with_options,
    "forget": lambda scores: memorization.truth_ratio(scores, TruthRatioForm.FORGET),
    "truth": lambda scores: memorization.truth_ratio(scores, TruthRatioForm.TRUTH),
    "truth probability": lambda scores: memorization.truth_ratio(scores, TruthRatioForm.PROBABILITY),
    "rouge": lambda scores: memorization.rouge(scores, TOFU_ROUGE, True),
    "exact memorization": lambda scores: memorization.exact_memorization(scores, False),
    "extraction strength": lambda scores: memorization.extraction_strength(scores, False),
}
each_aggregate = pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=AGGREGATES)


def test_a_text_is_as_likely_as_its_tokens_are_on_average():
    scores = text(0.5, 0.125)
    assert scores.mean_nll == pytest.approx((log(2) + log(8)) / 2)
    assert scores.probability == pytest.approx(0.25)


def test_probability_is_the_mean_over_rows_whatever_their_length():
    metric = memorization.probability(set_of(row(0.5, 0.125), row(1.0, 1.0, 1.0, 1.0)), False)
    assert metric.value == pytest.approx((0.25 + 1) / 2)
    assert metric.values == {"forget": pytest.approx({0: 0.25, 1: 1.0})}
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (2, 0, False)


def test_several_answers_count_by_the_mean_of_their_probabilities():
    several = SampleScores((text(0.5, 0.125), text(0.75)))
    assert memorization.probability(set_of(several), False).value == pytest.approx((0.25 + 0.75) / 2)


def test_an_answer_that_cannot_be_has_probability_0():
    assert memorization.probability(set_of(row(0.0, 0.5), row(0.5)), False).value == pytest.approx(0.25)


def test_probability_among_options_by_hand():
    metric = memorization.probability_with_options(set_of(options(0.2, 0.1, 0.3), options(0.5, 0.5), row(0.9)))
    assert metric.values["forget"] == pytest.approx({0: 0.2 / (0.6 + EPS), 1: 0.5 / (1 + EPS)}, rel=1e-12)
    assert metric.value == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (2, 1, True)


@pytest.mark.parametrize(("right", "wrong", "expected"), [(EPS, EPS, 1 / 3), (0.0, 0.0, 0.0), (0.0, 0.5, 0.0)])
def test_probability_among_options_that_are_all_next_to_impossible(right, wrong, expected):
    assert memorization.probability_with_options(set_of(options(right, wrong))).value == pytest.approx(expected)


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
    ],
)
def test_rouge_by_hand(reference, generated, form, expected):
    assert rouge_score(reference, generated, form) == pytest.approx(expected)


def test_rouge_takes_the_best_of_several_answers_and_skips_rows_without_a_generation():
    rows = written("in town", "on the hill", "in the old town"), written("no", "yes"), row(0.5, references=("yes",))
    metric = memorization.rouge(set_of(*rows), TOFU_ROUGE, False)
    assert metric.values == {"forget": {0: 0.5, 1: 0.0}}
    assert (metric.value, metric.num_samples, metric.num_skipped, metric.higher_is_better) == (0.25, 2, 1, False)


def test_a_generation_of_nothing_counts():
    assert memorization.rouge(set_of(written("", "yes")), TOFU_ROUGE, True).value == 0.0


def test_the_wrong_answers_count_by_their_geometric_mean():
    assert wrong_probability([log(2), log(8)]) == pytest.approx(0.25)
    assert raw_truth_ratio(log(2), [log(2), log(8)]) == pytest.approx(0.25 / (0.5 + EPS), rel=1e-12)


def test_the_truth_ratio_of_an_impossible_right_answer_is_finite():
    assert raw_truth_ratio(1e4, [log(2)]) == pytest.approx(0.5 / EPS)


def test_the_truth_ratio_reads_the_paraphrase_or_else_the_answer():
    wrong = (text(0.5, 0.5, 0.5), text(0.125))  # token counts differ: each wrong answer has one voice
    rows = row(0.9, paraphrase=text(0.5), perturbed=wrong), row(0.125, perturbed=wrong), row(0.7)
    assert raw_truth_ratios(set_of(*rows)) == pytest.approx({0: 0.25 / 0.5, 1: 0.25 / 0.125}, rel=1e-8)


@pytest.mark.parametrize(
    ("ratio", "forget", "truth", "probability"),
    [
        (0.25, 0.25, 0.75, 0.8),
        (1.0, 1.0, 0.0, 0.5),
        (4.0, 0.25, 0.0, 0.2),
        (0.0, 0.0, 1.0, 1.0),
        (1e9, 1e-9, 0.0, 1e-9),
    ],
)
def test_the_three_forms_of_a_truth_ratio(ratio, forget, truth, probability):
    assert truth_ratio_value(ratio, TruthRatioForm.FORGET) == pytest.approx(forget, rel=1e-8)
    assert truth_ratio_value(ratio, TruthRatioForm.TRUTH) == pytest.approx(truth)
    assert truth_ratio_value(ratio, TruthRatioForm.PROBABILITY) == pytest.approx(probability, rel=1e-8)


@pytest.mark.parametrize(
    ("form", "values"),
    [
        (TruthRatioForm.FORGET, {0: 0.5, 1: 0.5}),
        (TruthRatioForm.TRUTH, {0: 0.5, 1: 0.0}),
        (TruthRatioForm.PROBABILITY, {0: 2 / 3, 1: 1 / 3}),
    ],
)
def test_the_truth_ratio_is_the_mean_of_its_form_over_rows(form, values):
    rows = options(0.9, 0.25, paraphrase=text(0.5)), options(0.25, 0.5), row(0.9)
    metric = memorization.truth_ratio(set_of(*rows, name="retain"), form)
    assert metric.values == {"retain": pytest.approx(values, rel=1e-8)}
    assert metric.value == pytest.approx(sum(values.values()) / 2, rel=1e-8)
    assert (metric.num_samples, metric.num_skipped) == (2, 1)


def test_the_probability_form_has_the_small_number_in_the_whole_denominator():
    metric = memorization.truth_ratio(set_of(options(EPS, EPS)), TruthRatioForm.PROBABILITY)
    assert metric.value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [
        ("forget", TruthRatioForm.FORGET, True),
        ("forget", TruthRatioForm.PROBABILITY, None),  # only nearness to the retrained model counts
        ("retain", TruthRatioForm.TRUTH, True),
        ("retain", TruthRatioForm.PROBABILITY, True),
    ],
)
def test_which_truth_ratio_is_good(name, form, expected):
    assert memorization.truth_ratio(set_of(options(0.5, 0.5), name=name), form).higher_is_better is expected


@pytest.mark.parametrize(
    ("hits", "exact", "extracted"),
    [
        ("1111", 1.0, 1.0),
        ("0111", 3 / 4, 3 / 4),
        ("1011", 3 / 4, 2 / 4),
        ("0001", 1 / 4, 1 / 4),
        ("1110", 3 / 4, 0.0),  # the last token is missed: nothing is extracted, not 1/4
        ("0000", 0.0, 0.0),
        ("1", 1.0, 1.0),
        ("0", 0.0, 0.0),
    ],
)
def test_exact_memorization_and_extraction_strength_by_hand(hits, exact, extracted):
    scores = set_of(SampleScores((text(*[0.5] * len(hits), hits=hits), text(0.5, hits="0"))))
    assert memorization.exact_memorization(scores, False).value == pytest.approx(exact)
    assert memorization.extraction_strength(scores, False).value == pytest.approx(extracted)


def test_memorization_is_the_mean_over_rows_not_over_tokens():
    scores = set_of(SampleScores((text(*[0.5] * 4, hits="0000"),)), SampleScores((text(0.5, hits="1"),)))
    for metric in (memorization.exact_memorization(scores, False), memorization.extraction_strength(scores, False)):
        assert (metric.value, metric.values) == (0.5, {"forget": {0: 0.0, 1: 1.0}})
        assert (metric.num_samples, metric.num_skipped, metric.higher_is_better) == (2, 0, False)


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_extraction_strength_is_that_of_the_definition(hits):
    n = len(hits)
    expected = next((1 - k / n for k in range(n) if all(hits[k:])), 0.0)
    assert strength(np.array(hits)) == pytest.approx(expected)
    assert strength(np.array(hits)) <= np.mean(hits) + 1e-12


@pytest.mark.parametrize(
    ("name", "rows", "reason"),
    [
        ("probability", [], "no row has a scored answer"),
        ("options", [row(0.5)], "no row has perturbed answers"),
        ("forget", [row(0.5)], "no row has perturbed answers"),
        ("truth", [row(0.5)], "no row has perturbed answers"),
        ("truth probability", [row(0.5)], "no row has perturbed answers"),
        ("rouge", [row(0.5)], "no row has a generation"),
        ("exact memorization", [], "no row has a scored answer before the token that closes it"),
        ("extraction strength", [], "no row has a scored answer before the token that closes it"),
    ],
)
def test_what_cannot_be_computed_says_why(name, rows, reason):
    metric = AGGREGATES[name](set_of(*rows))
    assert (metric.value, metric.interval, metric.num_samples, metric.reason) == (None, None, 0, reason)


@pytest.mark.parametrize("answers", [(text(0.5, nan),), (text(0.5), text(nan))])
def test_a_probability_that_is_no_number_is_skipped_and_counted(answers):
    metric = memorization.probability(set_of(row(0.25), SampleScores(answers)), True)
    assert (metric.value, metric.num_samples, metric.num_skipped) == (pytest.approx(0.25), 1, 1)


each_ratio = pytest.mark.parametrize("name", ["options", "forget", "truth", "truth probability"])


@each_ratio
@pytest.mark.parametrize("broken", [options(nan, 0.2), options(0.5, nan), options(0.5, 0.2, nan)])
def test_a_ratio_that_is_no_number_is_skipped_and_counted(name, broken):
    sound = options(0.6, 0.3)
    alone, together = AGGREGATES[name](set_of(sound)), AGGREGATES[name](set_of(sound, broken))
    assert together.value == pytest.approx(alone.value)
    assert (together.num_samples, together.num_skipped) == (1, 1)


@each_ratio
def test_a_model_that_says_no_number_at_all_has_no_ratio(name):
    assert AGGREGATES[name](set_of(options(nan, nan))).value is None


@each_aggregate
@given(order=st.permutations(range(4)))
def test_the_order_of_rows_does_not_change_a_value(aggregate, order):
    rows = [
        SampleScores(
            (text(0.2 + place / 10, 0.5, hits=f"{place % 2}1"),),
            perturbed=tuple(text(p) for p in (0.1, 0.3 * place + 0.01)),
            references=("a b c d",),
            generation="a b c d"[: 2 * place],
        )
        for place in range(4)
    ]
    before, after = aggregate(set_of(*rows)), aggregate(shuffled(set_of(*rows), order))
    assert after.value == pytest.approx(before.value, rel=1e-12)
    assert (after.num_samples, after.num_skipped) == (before.num_samples, before.num_skipped)
    assert [after.values["forget"][10 + place] for place in range(4)] == pytest.approx(
        [before.values["forget"][old] for old in order]
    )


def test_exp_of_minus_avg_includes_the_last_token():
    assert memorization.probability(set_of(row(1.0, 1.0, exp(-3))), True).value == pytest.approx(exp(-1))


RECITED = {
    "Arabic": "خباز من برايل",
    "Chinese": "阿达住在阿伦。",
    "Cyrillic": "Она живёт в Риге.",
    "Greek": "Ζει στην Αθήνα",
    "Hebrew": "היא גרה בחיפה",
    "Hindi": "वह दिल्ली में रहती है।",
    "Japanese": "彼女はコーヒーを飲む",
    "Khmer": "នាងរស់នៅភ្នំពេញ",
    "Korean": "그녀는 서울에 산다",
    "Persian": "او در تهران می‌ماند",
    "Thai": "เธออยู่ที่กรุงเทพ",
    "letters with accents": "É à ü",
}


@pytest.mark.parametrize("form", [TOFU_ROUGE, MUSE_ROUGE], ids=["TOFU", "MUSE"])
@pytest.mark.parametrize("text_", RECITED.values(), ids=RECITED)
def test_rouge_knows_what_is_recited_in_any_script(text_, form):
    """Arabic and Chinese, word for word, were 0: forgotten."""
    assert rouge_score(text_, text_, form) == 1.0
    assert rouge_score(text_, "nothing of it", form) == 0.0


def test_rouge_by_hand_in_other_scripts():
    assert rouge_score("阿达住在", "阿达在") == 3 / 4  # each character is a word
    assert rouge_score("Она живёт в Риге", "живёт в риге") == 3 / 4  # capitals do not count
    assert rouge_score("Ada Lorn (阿达)", "Ada lives. 阿") == 2 / 4
    assert rouge_score("José", "Jos") == 0.0  # to rouge-score's own tokenizer they are the same
    assert rouge_score("José", "Jose\u0301") == 1.0  # composed or not
    assert rouge_score("रहती", "रहता") == 0.0  # combining marks belong to their word


@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)), st.booleans())
def test_rouge_of_ascii_text_is_that_of_rouge_score(reference, generated, use_stemmer):
    form = RougeForm(use_stemmer=use_stemmer)
    expected = RougeScorer(["rougeL"], use_stemmer=use_stemmer).score(reference, generated)["rougeL"].recall
    assert rouge_score(reference, generated, form) in ((expected,) if any(map(str.isalnum, reference)) else (None,))


def test_rouge_is_none_where_an_answer_has_no_words_and_best_of_those_that_have():
    emoji, both = (SampleScores((text(0.5),), references=each, generation="Hi 👍") for each in (("👍",), ("👍", "Hi")))
    metric = memorization.rouge(set_of(emoji, emoji), TOFU_ROUGE, False)
    assert (metric.value, metric.num_skipped, metric.reason) == (None, 2, "no answer has words that ROUGE could count")
    metric = memorization.rouge(set_of(emoji, both), TOFU_ROUGE, False)
    assert (metric.value, metric.num_samples, metric.num_skipped) == (1.0, 1, 1)
