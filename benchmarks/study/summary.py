"""From the runs' results to one number a method and measure: means over seeds with their spread."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.study.methods import ABLATION, HEADLINE, ablation_of
from benchmarks.study.plan import SEEDS, Record, RunSpec, chosen_rate, grid_of, missing, model_line, rate_giver

GAP_METRICS = (
    "forget_probability",
    "forget_truth_ratio",
    "forget_extraction_strength",
    "mia_min_k",
    "model_utility",
)
"""What the distance to the retrained model is the mean of."""

LEAST_SCALE = 0.1
"""A metric's scale, as a share of the retrained model's value, is at least this: see `distances`."""

Values = dict[str, float | None]
Models = dict[str, Values]


def models_of(seed: int) -> Models:
    """A seed's model before unlearning, and its retrained model."""
    return {name: Record.read(model_line(name, seed)).values for name in ("before", "retrained")}


def distances(values: Values, models: Models, least_scale: float = LEAST_SCALE) -> dict[str, float]:
    """|m - retrained| / |before - retrained| of each gap metric m: 0 is the retrained model.

    Model utility is nearly the same before and retrained: divided by a difference of a hundredth, one run's utility
    would count a hundredfold and nothing else would. The divisor is therefore at least a tenth of the retrained model's
    value: a model whose utility is off by a tenth is as far away as one that has forgotten nothing.
    """
    before, retrained = models["before"], models["retrained"]
    return {
        name: abs(values[name] - retrained[name])
        / max(abs(before[name] - retrained[name]), least_scale * retrained[name])
        for name in GAP_METRICS
    }


def gap(values: Values, models: Models) -> float:
    """The distance to the retrained model: mean of `distances`."""
    return statistics.fmean(distances(values, models).values())


def _ratio(name: str) -> Callable[[Values, Models], float]:
    return lambda values, models: values[name] / models["retrained"][name]


def _metric(name: str) -> Callable[[Values, Models], float | None]:
    return lambda values, _: values.get(name)


MEASURES: dict[str, Callable[[Values, Models], float | None]] = {
    "gap": gap,
    "gap_without_least_scale": lambda values, models: statistics.fmean(distances(values, models, 0.0).values()),
    "forget_quality": _metric("forget_quality"),
    "model_utility_ratio": _ratio("model_utility"),
    "forget_probability_ratio": _ratio("forget_probability"),
    "forget_probability": _metric("forget_probability"),
    "forget_truth_ratio": _metric("forget_truth_ratio"),
    "forget_extraction_strength": _metric("forget_extraction_strength"),
    "mia_min_k": _metric("mia_min_k"),
    "model_utility": _metric("model_utility"),
    "privleak": _metric("privleak"),
    "entanglement": _metric("entanglement_variance_ratio"),
    "retain_shift": _metric("entanglement_retain_shift"),
    "repetition": _metric("fluency_repetition"),
    "perplexity": _metric("fluency_perplexity"),
    "relearning_speed": _metric("relearning_speed"),
}
"""What is told of a method, by name: a function of a run's values and its seed's two models."""


def summary() -> dict[str, Any]:
    """Every method that has results, at the learning rate that the boundary rule chose, and the two models."""
    parts = [method for objective in ABLATION for method in ablation_of(objective)]
    rates = {method: chosen_rate(method) for method in dict.fromkeys((*HEADLINE, *parts))}
    specs = {name: [RunSpec(name, rate, seed) for seed in SEEDS] for name, rate in rates.items() if rate is not None}
    done = {name: [spec for spec in each if spec.evaluated.exists()] for name, each in specs.items()}
    models = [seed for seed in SEEDS if model_line("retrained", seed).exists()]
    return {
        **{name: _summarize([(models_of(seed)[name], seed) for seed in models]) for name in ("before", "retrained")},
        **{name: {"learning_rate": rates[name], **_of(each)} for name, each in done.items() if each},
    }


def chosen_with_retrained() -> dict[str, Any]:
    """The headline's methods at the rate under which l of the forget rows is most like the retrained model's.

    What a look at the retrained model would give, with the first seed; only rates whose models are evaluated have more
    than the distance.
    """
    found = {}
    for method in HEADLINE:
        if rate_giver(method) != method or missing(grid_of(method), "trained"):
            continue
        distance = {spec: Record.read(spec.trained).values["retrained_distance"] for spec in grid_of(method)}
        best = min(distance, key=lambda spec: distance[spec])
        found[method] = {"learning_rate": best.learning_rate, "retrained_distance": distance[best]}
    return found


def _of(specs: list[RunSpec]) -> dict[str, Any]:
    return _summarize([(Record.read(spec.evaluated).values, spec.seed) for spec in specs])


def _summarize(found: list[tuple[Values, int]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each measure."""
    told = {
        name: _spread([measure(values, models_of(seed)) for values, seed in found])
        for name, measure in MEASURES.items()
    }
    return {"seeds": len(found), **told}


def _spread(values: list[float | None]) -> dict[str, float] | None:
    """Mean and standard deviation (n - 1), or None if a seed has no value."""
    if not values or any(value is None for value in values):
        return None
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}
