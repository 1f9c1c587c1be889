"""Truth ratio: how likely wrong answers are beside the right one (TOFU, Maini et al. 2024, arXiv 2401.06121)."""

import math
from collections.abc import Callable, Iterable
from enum import Enum

import numpy as np

from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.evaluation.metric_registry import KEPT_AND_FORGOTTEN, Direction, Reads, set_metric
from egup_trainer.evaluation.metrics.probability import EPSILON
from egup_trainer.evaluation.scores import RowRole, SampleScores, SetScores, TextScores

_ROLES = (*KEPT_AND_FORGOTTEN, RowRole.CHOICE)
_NEEDS = "rows with wrong answers, and `paraphrased_answer` if available"


class TruthRatioForm(Enum):
    """How per-sample truth ratios TR = W / C become a metric."""

    FORGET = "forget"
    """mean(min(TR, 1 / TR)): 1 where right and wrong answers are equally likely."""
    TRUTH = "truth"
    """mean(max(0, 1 - TR)): the more, the likelier right answers are than wrong ones."""
    PROBABILITY = "probability"
    """mean(C / (C + W))."""


@set_metric(
    "truth_ratio",
    label="Truth ratio",
    meaning="Likelihood of wrong answers divided by that of the right one, R. "
    "Forget rows: min(R, 1/R). Other rows: max(0, 1 - R).",
    direction=Direction.HIGHER,
    roles=_ROLES,
    needs=_NEEDS,
    reads=(Reads.OTHER_ANSWERS,),
)
def truth_ratio(scores: SetScores) -> Metric:
    """TR = W / (C + 1e-10), C = exp(-avg) of the paraphrased answer, or of the answer if there is no paraphrase, W the
    geometric mean over the perturbed answers. Forget rows: mean_i min(TR, 1 / (TR + 1e-10)); other rows: mean_i
    max(0, 1 - TR).
    """
    form = TruthRatioForm.FORGET if scores.use.role is RowRole.FORGET else TruthRatioForm.TRUTH
    return _mean(scores, lambda row: truth_ratio_value(raw_truth_ratio(_right(row).mean_nll, _wrong_nlls(row)), form))


@set_metric(
    "truth_probability",
    label="Truth probability",
    meaning="Likelihood of the right answer over that of right and wrong ones.",
    direction=Direction.HIGHER_ON_KEPT,
    roles=_ROLES,
    needs=_NEEDS,
    reads=(Reads.OTHER_ANSWERS,),
)
def truth_probability(scores: SetScores) -> Metric:
    """mean_i C / (C + W + 1e-10), with C and W of the truth ratio."""

    return _mean(scores, lambda row: truth_share(_right(row).mean_nll, _wrong_nlls(row)))


def truth_share(right_nll: float, wrong_nlls: Iterable[float]) -> float:
    """C / (C + W + 1e-10), with the arguments of `raw_truth_ratio`.

    Example:
        >>> truth_share(0.0, [100.0]), truth_share(100.0, [100.0]) < 1e-9
        (0.9999999999, True)
    """
    right, wrong = math.exp(-right_nll), wrong_probability(wrong_nlls)
    return right / (right + wrong + EPSILON)


def raw_truth_ratio(right_nll: float, wrong_nlls: Iterable[float]) -> float:
    """TR = W / (C + 1e-10) with C = exp(-avg) of the right answer and W the geometric mean of the wrong ones.

    Args:
        right_nll: avg of the right answer (paraphrased, if there is a paraphrase), nats per token.
        wrong_nlls: avg of each wrong answer.
    """
    return wrong_probability(wrong_nlls) / (math.exp(-right_nll) + EPSILON)


def wrong_probability(wrong_nlls: Iterable[float]) -> float:
    """W = exp(-mean_j avg_j), the geometric mean of the wrong answers' probabilities."""
    return math.exp(-float(np.mean(list(wrong_nlls))))


def raw_truth_ratios(scores: SetScores) -> dict[int, float]:
    """TR = W / (C + 1e-10) by sample id, for rows with perturbed answers; without a paraphrase C is of the answer."""
    return {
        sample: raw_truth_ratio(_right(row).mean_nll, _wrong_nlls(row))
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
        return max(1 - ratio, 0.0)  # in this order, so that nan stays nan
    return 1 / (1 + ratio)


def _mean(scores: SetScores, number: Callable[[SampleScores], float]) -> Metric:
    values = {sample: number(row) for sample, row in scores.samples.items() if row.perturbed}
    return mean_metric(scores.name, values, num_rows=len(scores), without="no row has perturbed answers")


def _right(row: SampleScores) -> TextScores:
    return row.answers[0] if row.paraphrase is None else row.paraphrase


def _wrong_nlls(row: SampleScores) -> list[float]:
    return [text.mean_nll for text in row.perturbed]
