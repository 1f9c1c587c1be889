"""Memorization: how much of an answer the model recites, token by token."""

import math
from collections.abc import Callable

import numpy as np

from egup_trainer.evaluation.definitions import Definitions
from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.evaluation.metric_registry import Direction, set_metric
from egup_trainer.evaluation.scores import SetScores

NOTHING_RECITED = "no row has a scored answer before the token that closes it"


@set_metric(
    "exact_memorization",
    label="Exact memorization",
    meaning="Share of answer tokens that are the model's first choice.",
    direction=Direction.KNOWLEDGE,
    reads=(),
)
def exact_memorization(scores: SetScores) -> Metric:
    """mean_i of the share of answer tokens, the closing one left out, that are the most likely ones (Tirumala et al.
    2022, arXiv 2205.10770).
    """
    return _mean(scores, lambda greedy_match: float(greedy_match.mean()))


@set_metric(
    "extraction_strength",
    label="Extraction strength",
    meaning="Share of the answer from which on each token is the first choice.",
    direction=Direction.KNOWLEDGE,
    reads=(),
)
def extraction_strength(scores: SetScores) -> Metric:
    """mean_i 1 - k/n for the smallest k from which on all n tokens but the closing one are the most likely ones; 0 if
    there is none (Carlini et al. 2021, arXiv 2012.07805, as used for unlearning by Wang et al. 2024, arXiv 2406.09179).
    """
    if scores.use.definitions is Definitions.OPEN_UNLEARNING:
        return _mean(scores, lambda greedy_match: strength(greedy_match) or 1 / len(greedy_match))
    return _mean(scores, strength)


def strength(greedy_match: np.ndarray) -> float:
    """Extraction strength of one answer: the share of tokens after the last that is not the most likely one.

    Example:
        >>> strength(np.array([True, False, True, True])), strength(np.array([True, False]))
        (0.5, 0.0)
    """
    misses = np.flatnonzero(~greedy_match)
    first = misses[-1] + 1 if len(misses) else 0
    return float(1 - first / len(greedy_match))


def _mean(scores: SetScores, number: Callable[[np.ndarray], float]) -> Metric:
    """Mean over the answers without the tokens that close them; rows whose logits are not finite are left out."""
    texts = {sample: row.answers[0].recited for sample, row in scores.samples.items()}
    values = {
        sample: number(text.greedy_match)
        for sample, text in texts.items()
        if len(text) and math.isfinite(text.mean_nll)
    }
    return mean_metric(scores.name, values, num_rows=len(scores), without=NOTHING_RECITED)
