"""Probability: how likely the answers are (TOFU, Maini et al. 2024, arXiv 2401.06121)."""

import numpy as np

from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.evaluation.metric_registry import Direction, set_metric
from egup_trainer.evaluation.scores import RowRole, SampleScores, SetScores

EPSILON = 1e-10
"""Keeps quotients of probabilities finite, as in the field's code."""


@set_metric(
    "probability",
    label="Probability",
    meaning="How likely the answer is: exp of its mean token log-likelihood.",
    direction=Direction.KNOWLEDGE,
    roles=tuple(RowRole),
    reads=(),
)
def probability(scores: SetScores) -> Metric:
    """mean_i exp(-avg_i), the closing token included; several right answers: the mean of their probabilities.

    Among options (real authors, world facts): mean_i p_c / (p_c + sum_j p_wj + 1e-10) over the right answer c and the
    wrong ones w, each p = exp(-avg).
    """
    is_choice = scores.use.role is RowRole.CHOICE
    values = {
        sample: _share_of_options(row) if is_choice else float(np.mean([text.probability for text in row.answers]))
        for sample, row in scores.samples.items()
        if row.perturbed or not is_choice
    }
    without = "no row has perturbed answers" if is_choice else "no row has a scored answer"
    return mean_metric(scores.name, values, num_rows=len(scores), without=without)


def _share_of_options(row: SampleScores) -> float:
    right = row.answers[0].probability
    return right / (right + sum(text.probability for text in row.perturbed) + EPSILON)
