"""The wider distance to the retrained model: each metric in units of the retrained models' own spread.

A second retrained model, trained on the same rows in another order, is as good an answer as the first. What two of them
differ by is therefore one unit. With t the metric's transform, the offset of a metric m is
|t(m) - mean_r t(m_r)| / s, at most `CAP`, with r over the seed's retrained models; s is their standard deviation about
their seed's mean, pooled over seeds: s^2 = sum over seeds and r of (t(m_r) - mean_r t(m_r))^2 / sum over seeds of
(n - 1), and at least `LEAST_UNIT`. `gap10` is the mean of the offsets.
"""

import math
import statistics
from collections.abc import Callable, Iterable

Values = dict[str, float | None]
Models = dict[str, Values]
"""The numbers of a seed's model "before" unlearning, and of its retrained models: "retrained", "retrained2", ..."""

CAP = 10.0
"""Most that an offset counts. A model ten standard deviations away differs for certain; how much further it is must not
make the mean the mean of one metric."""

LEAST_UNIT = 0.005
"""Half a hundredth, also of an AUC, and half a percent of a probability: a unit is at least this where retrained models
happen to agree, so that no metric is divided by zero or by next to nothing."""

SMALLEST = 1e-12
"""A probability of 0 has this logarithm; either way, it is at the cap."""


def _log(value: float) -> float:
    return math.log(max(value, SMALLEST))


def _same(value: float) -> float:
    return value


WIDE_METRICS: dict[str, Callable[[float], float]] = {
    "forget_probability": _log,
    "forget_truth_ratio": _same,
    "forget_extraction_strength": _same,
    "mia_min_k": _same,
    "model_utility": _same,
    "forget_rouge": _same,
    "forget_exact_memorization": _same,
    "mia_loss": _same,
    "mia_min_k_plus_plus": _same,
    "fluency_repetition": _same,
    "fluency_perplexity": _log,
    "forget_truth_probability": _same,
    "holdout_probability": _log,
}
"""The metrics, and their transforms. Probabilities of whole texts and perplexities count by their logarithm, as half is
as far off as twice; shares and areas between 0 and 1 count as they are. The truth probability, mean C / (C + W), is the
paraphrase's lead over the wrong answers: the logistic function of the difference of their l."""


def retrained_of(models: Models) -> dict[str, Values]:
    """The seed's retrained models by name."""
    return {name: values for name, values in models.items() if name.startswith("retrained")}


def without(models: Models, name: str) -> Models:
    """The models with one left out, so that it is not compared with itself."""
    return {other: values for other, values in models.items() if other != name}


def units(seeds: Iterable[Models]) -> dict[str, float]:
    """The unit of each metric that at least one seed has two retrained models for.

    Args:
        seeds: of each seed, the models.

    Example:
        >>> one = {"retrained": {"mia_loss": 0.4}, "retrained2": {"mia_loss": 0.6}}
        >>> round(units([one])["mia_loss"], 4)
        0.1414
    """
    squares, freedom = dict.fromkeys(WIDE_METRICS, 0.0), dict.fromkeys(WIDE_METRICS, 0)
    for models in seeds:
        for name in WIDE_METRICS:
            found = _of_retrained(name, models)
            if len(found) > 1:
                squares[name] += statistics.variance(found) * (len(found) - 1)
                freedom[name] += len(found) - 1
    return {name: max(math.sqrt(squares[name] / n), LEAST_UNIT) for name, n in freedom.items() if n}


def offsets(values: Values, models: Models, unit: dict[str, float]) -> dict[str, float]:
    """How many units each metric is from the mean of the seed's retrained models, `CAP` at most.

    A metric that none of them has is left out; one that only the model lacks (a model that writes nothing has no
    perplexity) is at the cap.

    Args:
        values: of the model in question.
        models: what it is compared with.
        unit: from `units`.
    """
    references = {name: _of_retrained(name, models) for name in unit}
    return {
        name: _offset(values.get(name), found, unit[name], WIDE_METRICS[name])
        for name, found in references.items()
        if found
    }


def gap10(values: Values, models: Models, unit: dict[str, float]) -> float | None:
    """The wider distance to the retrained model: mean of `offsets`, or None if no retrained model has any metric."""
    found = offsets(values, models, unit)
    return statistics.fmean(found.values()) if found else None


def _offset(value: float | None, references: list[float], unit: float, transform: Callable[[float], float]) -> float:
    if value is None or not math.isfinite(value):
        return CAP
    return min(abs(transform(value) - statistics.fmean(references)) / unit, CAP)


def _of_retrained(name: str, models: Models) -> list[float]:
    """The metric's values, transformed, of the retrained models that have it."""
    found = (values.get(name) for values in retrained_of(models).values())
    return [WIDE_METRICS[name](value) for value in found if value is not None]
