"""Whether what a model writes is still language: repetition, variety, and how likely the model before found it."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace

from egup_trainer.data.words import words_of
from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.evaluation.scores import SetScores

_LARGEST_NLL = math.log(sys.float_info.max)  # beyond it the perplexity is not finite


def distinct_share(text: str, n: int) -> float | None:
    """Different n-grams of words over all n-grams (Li et al. 2016, arXiv 1510.03055); None below n words.

    Example:
        >>> distinct_share("the cat and the cat", 2)
        0.75
    """
    words = words_of(text)
    grams = list(zip(*(words[start:] for start in range(n))))
    return len(set(grams)) / len(grams) if grams else None


def distinct(scores: SetScores, n: int = 2) -> Metric:
    """mean_i of the share of different n-grams in the generation."""
    return _mean_over_generations(scores, n, lambda share: share, higher_is_better=True)


def repetition(scores: SetScores, n: int = 4) -> Metric:
    """mean_i of the share of n-grams that stood in the generation before (Welleck et al. 2020, arXiv 1908.04319)."""
    return _mean_over_generations(scores, n, lambda share: 1 - share, higher_is_better=False)


def perplexity(scores: SetScores) -> Metric:
    """exp(mean_i avg_i) of the generations under the model before unlearning: high where they are no language to it."""
    nlls = {
        sample: row.generation_nll
        for sample, row in scores.samples.items()
        if row.generation_nll is not None and row.generation_nll < _LARGEST_NLL
    }
    mean = mean_metric(
        scores.name,
        nlls,
        num_rows=len(scores),
        higher_is_better=False,
        without="no generation was read by the model before unlearning",
    )
    if mean.value is None:
        return mean
    values = {sample: math.exp(nll) for sample, nll in mean.values[scores.name].items()}
    interval = mean.interval and (math.exp(mean.interval[0]), math.exp(mean.interval[1]))
    return replace(mean, value=math.exp(mean.value), values={scores.name: values}, interval=interval)


def _mean_over_generations(
    scores: SetScores, n: int, number: Callable[[float], float], higher_is_better: bool
) -> Metric:
    shares = {
        sample: distinct_share(row.generation, n)
        for sample, row in scores.samples.items()
        if row.generation is not None
    }
    values = {sample: number(share) for sample, share in shares.items() if share is not None}
    return mean_metric(
        scores.name,
        values,
        num_rows=len(scores),
        higher_is_better=higher_is_better,
        without=f"no generation has {n} words",
    )
