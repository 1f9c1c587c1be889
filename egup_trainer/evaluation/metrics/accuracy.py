"""Accuracy: how often the right answer is the likeliest of several."""

import math

from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.evaluation.metric_registry import Direction, Reads, set_metric
from egup_trainer.evaluation.scores import SampleScores, SetScores, TextScores


@set_metric(
    "accuracy",
    label="Accuracy",
    meaning="Share of questions whose right choice is the likeliest.",
    direction=Direction.KNOWLEDGE,
    roles=(),
    needs="multiple-choice questions",
    reads=(Reads.OTHER_ANSWERS,),
)
def accuracy(scores: SetScores) -> Metric:
    """mean_i [log p(c) > log p(w) for every wrong choice w], log p the sum over a choice's tokens, the closing token
    included. Choices of equal likelihood count as not known; questions with a choice without a number are left out.
    """
    values = {sample: _is_known(row) for sample, row in scores.samples.items() if row.perturbed}
    return mean_metric(scores.name, values, num_rows=len(scores), without="no row has choices")


def _is_known(row: SampleScores) -> float:
    right, *wrong = (_logp(text) for text in (row.answers[0], *row.perturbed))
    return math.nan if any(map(math.isnan, (right, *wrong))) else float(right > max(wrong))


def _logp(text: TextScores) -> float:
    return float(text.token_logps.sum())
