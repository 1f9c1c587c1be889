"""What a model has by heart: probability, ROUGE, truth ratio, exact memorization, extraction strength.

Definitions are those of TOFU (Maini et al. 2024, arXiv 2401.06121) and of the works named below; all are functions of
per-sample numbers, and every aggregate is an unweighted mean over samples.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np

from egup_trainer.data.words import words_of
from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.evaluation.scores import SampleScores, SetScores, TextScores

EPSILON = 1e-10
"""Keeps quotients of probabilities finite, as the field's code has it."""

NO_WORDS = "no answer has words that ROUGE could count"


NOTHING_RECITED = "no row has a scored answer before the token that closes it"


class TruthRatioForm(Enum):
    """How per-sample truth ratios TR = W / C become a metric."""

    FORGET = "forget"
    """mean(min(TR, 1 / TR)): 1 where right and wrong answers are equally likely."""
    TRUTH = "truth"
    """mean(max(0, 1 - TR)): the more, the likelier right answers are than wrong ones."""
    PROBABILITY = "probability"
    """mean(C / (C + W))."""


@dataclass(frozen=True)
class RougeForm:
    """Which number of rouge-score: the variant, recall or F1, and whether words are stemmed."""

    variant: str = "rougeL"
    part: str = "recall"
    use_stemmer: bool = True


TOFU_ROUGE = RougeForm()
MUSE_ROUGE = RougeForm(part="fmeasure", use_stemmer=False)


def probability(scores: SetScores, higher_is_better: bool | None) -> Metric:
    """mean_i exp(-avg_i), the end-of-sequence label included; several answers: the mean of their probabilities."""
    values = {sample: _mean(text.probability for text in row.answers) for sample, row in scores.samples.items()}
    return _mean_metric(scores, values, higher_is_better, "no row has a scored answer")


def probability_with_options(scores: SetScores) -> Metric:
    """mean_i p_c / (p_c + sum_j p_wj + 1e-10) over the right answer c and the wrong ones w, each p = exp(-avg)."""
    values = {
        sample: row.answers[0].probability / (row.answers[0].probability + _sum(row.perturbed) + EPSILON)
        for sample, row in scores.samples.items()
        if row.perturbed
    }
    return _mean_metric(scores, values, True, "no row has perturbed answers")


def rouge(scores: SetScores, form: RougeForm, higher_is_better: bool) -> Metric:
    """mean_i of a ROUGE number of the generation against the answer; several answers: the best."""
    written = {sample: row for sample, row in scores.samples.items() if row.generation is not None}
    found = {
        sample: [rouge_score(reference, str(row.generation), form) for reference in row.references]
        for sample, row in written.items()
    }
    counted = {sample: [value for value in values if value is not None] for sample, values in found.items()}
    values = {sample: max(numbers) for sample, numbers in counted.items() if numbers}
    without = NO_WORDS if written else "no row has a generation"
    return _mean_metric(scores, values, higher_is_better, without)


def rouge_score(reference: str, generated: str, form: RougeForm = TOFU_ROUGE) -> float | None:
    """One ROUGE number, by rouge-score, over the words of `words_of`; None for a reference without words.

    Example:
        >>> rouge_score("in the old town", "in town"), rouge_score("東京", "東"), rouge_score("...", "...")
        (0.5, 0.5, None)
    """
    if not words_of(reference):
        return None
    return getattr(_scorer(form).score(reference, generated)[form.variant], form.part)


@cache
def _scorer(form: RougeForm) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([form.variant], tokenizer=_Words(form.use_stemmer))


class _Words:
    """The tokenizer of a `RougeScorer`: rouge-score's own knows no letters but a to z, and stems English words."""

    def __init__(self, use_stemmer: bool):
        from rouge_score.tokenizers import DefaultTokenizer

        self._english = DefaultTokenizer(use_stemmer)

    def tokenize(self, text: str) -> list[str]:
        words = ([word] if not word.isascii() else self._english.tokenize(word) for word in words_of(text))
        return [word for each in words for word in each]


def raw_truth_ratio(right_nll: float, wrong_nlls: Iterable[float]) -> float:
    """TR = W / (C + 1e-10) with C = exp(-avg) of the right answer and W the geometric mean of the wrong ones.

    Args:
        right_nll: avg of the right answer (paraphrased, where there is a paraphrase), nats per token.
        wrong_nlls: avg of each wrong answer.
    """
    return wrong_probability(wrong_nlls) / (math.exp(-right_nll) + EPSILON)


def wrong_probability(wrong_nlls: Iterable[float]) -> float:
    """W = exp(-mean_j avg_j), the geometric mean of the wrong answers' probabilities."""
    return math.exp(-_mean(wrong_nlls))


def raw_truth_ratios(scores: SetScores) -> dict[int, float]:
    """TR = W / (C + 1e-10) by sample id, for rows with perturbed answers; without a paraphrase C is of the answer."""
    return {
        sample: raw_truth_ratio(_right(row).mean_nll, [text.mean_nll for text in row.perturbed])
        for sample, row in scores.samples.items()
        if row.perturbed
    }


def truth_ratio_value(ratio: float, form: TruthRatioForm) -> float:
    """A sample's share of the metric, from its raw truth ratio.

    Example:
        >>> [round(truth_ratio_value(0.25, form), 6) for form in TruthRatioForm]
        [0.25, 0.75, 0.8]
    """
    if form is TruthRatioForm.FORGET:
        return min(ratio, 1 / (ratio + EPSILON))
    if form is TruthRatioForm.TRUTH:
        return max(1 - ratio, 0.0)  # in this order, so that what is no number stays none
    return 1 / (1 + ratio)


def truth_ratio(scores: SetScores, form: TruthRatioForm) -> Metric:
    """mean_i of `truth_ratio_value`, the truth ratio of a row set, in one of its forms."""
    values = {sample: truth_ratio_value(ratio, form) for sample, ratio in raw_truth_ratios(scores).items()}
    if form is TruthRatioForm.PROBABILITY:  # exactly as defined: the small number stands in the whole denominator
        values = {sample: _truth_probability(scores.samples[sample]) for sample in values}
    higher = None if scores.name == "forget" and form is not TruthRatioForm.FORGET else True
    return _mean_metric(scores, values, higher, "no row has perturbed answers")


def exact_memorization(scores: SetScores, higher_is_better: bool) -> Metric:
    """mean_i of the share of answer tokens that are the most likely ones (Tirumala et al. 2022, arXiv 2205.10770).

    The token that closes the answer does not count: a model that recites on never predicts it.
    """
    values = {sample: float(text.hits.mean()) for sample, text in _recited(scores)}
    return _mean_metric(scores, values, higher_is_better, NOTHING_RECITED)


def extraction_strength(scores: SetScores, higher_is_better: bool | None) -> Metric:
    """mean_i 1 - k/n for the smallest k from which on all tokens are the most likely ones; 0 if there is none.

    The token that closes the answer does not count, as in `exact_memorization`.

    Source: Carlini et al. 2021, arXiv 2012.07805, as used for unlearning by Wang et al. 2024, arXiv 2406.09179.
    """
    values = {sample: strength(text.hits) for sample, text in _recited(scores)}
    return _mean_metric(scores, values, higher_is_better, NOTHING_RECITED)


def strength(hits: np.ndarray) -> float:
    """Extraction strength of one answer: the share of tokens after the last miss.

    Example:
        >>> strength(np.array([True, False, True, True])), strength(np.array([True, False]))
        (0.5, 0.0)
    """
    misses = np.flatnonzero(~hits)
    first = misses[-1] + 1 if len(misses) else 0
    return float(1 - first / len(hits))


def _recited(scores: SetScores) -> list[tuple[int, TextScores]]:
    """The answers without the tokens that close them. Rows whose logits are not numbers are left out."""
    texts = {sample: row.answers[0].recited for sample, row in scores.samples.items()}
    return [(sample, text) for sample, text in texts.items() if len(text) and math.isfinite(text.mean_nll)]


def _right(row: SampleScores) -> TextScores:
    return row.answers[0] if row.paraphrase is None else row.paraphrase


def _truth_probability(row: SampleScores) -> float:
    right, wrong = _right(row).probability, wrong_probability(text.mean_nll for text in row.perturbed)
    return right / (right + wrong + EPSILON)


def _mean_metric(scores: SetScores, values: dict[int, float], higher_is_better: bool | None, without: str) -> Metric:
    return mean_metric(scores.name, values, num_rows=len(scores), higher_is_better=higher_is_better, without=without)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _sum(texts: Iterable[TextScores]) -> float:
    return sum(text.probability for text in texts)
