"""Fluency: whether what the model writes is still language: repetition, variety, likelihood under the initial model."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace

from egup_trainer.data.words import words_of
from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.evaluation.metric_registry import Direction, Measured, Reads, Section, suite_metric
from egup_trainer.evaluation.scores import SetScores

_LARGEST_NLL = math.log(sys.float_info.max)  # beyond it the perplexity is not finite


@suite_metric(
    "fluency_perplexity",
    Section.FLUENCY,
    label="Perplexity",
    meaning="Of the generations, under the initial model; high if they are not language.",
    direction=Direction.LOWER,
    needs="`--model_before`, or an adapter, which is switched off",
    reads=(Reads.GENERATIONS, Reads.PERPLEXITY),
)
def perplexity(model: Measured) -> Metric:
    """exp(mean_i avg_i) of the forget rows' generations under the model before unlearning (ours: no classifier is
    downloaded).
    """
    scores = _written(model)
    nlls = {
        sample: row.generation_nll
        for sample, row in scores.samples.items()
        if row.generation_nll is not None and row.generation_nll < _LARGEST_NLL
    }
    without = "no generation was read by the model before unlearning"
    mean = mean_metric(scores.name, nlls, num_rows=len(scores), without=without)
    if mean.value is None:
        return mean
    values = {sample: math.exp(nll) for sample, nll in mean.values[scores.name].items()}
    interval = mean.interval and (math.exp(mean.interval[0]), math.exp(mean.interval[1]))
    return replace(mean, value=math.exp(mean.value), values={scores.name: values}, interval=interval)


@suite_metric(
    "fluency_distinct_2",
    Section.FLUENCY,
    label="Distinct bigrams",
    meaning="Share of different ones among the word pairs of a generation.",
    direction=Direction.HIGHER,
    needs="forget rows with a prompt",
    reads=(Reads.GENERATIONS,),
)
def distinct(model: Measured) -> Metric:
    """mean_i of the share of different word pairs in the generation (Li et al. 2016, arXiv 1510.03055)."""
    return _mean(_written(model), 2, lambda share: share)


@suite_metric(
    "fluency_repetition",
    Section.FLUENCY,
    label="Repetition",
    meaning="Share of four-word sequences that stood in the generation before.",
    direction=Direction.LOWER,
    needs="forget rows with a prompt",
    reads=(Reads.GENERATIONS,),
)
def repetition(model: Measured) -> Metric:
    """mean_i of the share of four-word sequences that stood in the generation before (Welleck et al. 2020, arXiv
    1908.04319).
    """
    return _mean(_written(model), 4, lambda share: 1 - share)


def distinct_share(text: str, n: int) -> float | None:
    """Different n-grams of words over all n-grams; None if the text has fewer than n words.

    Example:
        >>> distinct_share("the cat and the cat", 2)
        0.75
    """
    words = words_of(text)
    grams = list(zip(*(words[start:] for start in range(n))))
    return len(set(grams)) / len(grams) if grams else None


def _written(model: Measured) -> SetScores:
    return next(rows for rows in model.sets.values() if rows.use.fluency)


def _mean(scores: SetScores, n: int, number: Callable[[float], float]) -> Metric:
    shares = {s: distinct_share(row.generation, n) for s, row in scores.samples.items() if row.generation is not None}
    values = {sample: number(share) for sample, share in shares.items() if share is not None}
    return mean_metric(scores.name, values, num_rows=len(scores), without=f"no generation has {n} words")
