"""What the verdict needs of a model, from its evaluation."""

import sys
from math import log

from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.verdict import Measures, SetMeasures

FORGET, RETAIN, UNSEEN, NEIGHBOR = "forget", "retain", "holdout", "neighbor"
"""Names of the row sets that are judged, in results."""


def measures_of(evaluation: Evaluation) -> Measures | None:
    """What was measured of forget, retain, holdout and neighbor rows; None without probabilities of forget answers.

    The holdout rows are those that no model saw. l of a row is -log of the probability of its answer; a probability
    that is too small for a float counts as the smallest one. A set without probabilities is None. Repetition is that of
    the generations whose fluency was measured: those of forget rows.

    Example:
        >>> measures_of(Evaluation("mine", "custom", None, {}, {})) is None
        True
    """
    sets = (_set_measures(evaluation, name) for name in (FORGET, RETAIN, UNSEEN, NEIGHBOR))
    forget, retain, unseen, neighbor = sets
    return None if forget is None else Measures(forget, retain, unseen, neighbor)


def _set_measures(evaluation: Evaluation, name: str) -> SetMeasures | None:
    likely = evaluation.values_of(f"{name}_probability", name).values()
    if not likely:
        return None
    rouge = evaluation.values_of(f"{name}_rouge", name).values()
    repetition = evaluation.values_of("fluency_repetition", name).values()
    return SetMeasures([-log(max(value, sys.float_info.min)) for value in likely], list(rouge), list(repetition))
