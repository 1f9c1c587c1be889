"""Accuracy: how often the right answer is the likeliest of several."""

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
    included. Choices of equal likelihood count as not known.
    """
    values = {sample: float(_is_known(row)) for sample, row in scores.samples.items() if row.perturbed}
    return mean_metric(scores.name, values, num_rows=len(scores), without="no row has choices")


def _is_known(row: SampleScores) -> bool:
    right = _logp(row.answers[0])
    return all(right > _logp(wrong) for wrong in row.perturbed)


def _logp(text: TextScores) -> float:
    return float(text.token_logps.sum())
