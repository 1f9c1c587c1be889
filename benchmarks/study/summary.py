"""From the runs' results to one number a method and measure: means over seeds with their spread."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.study.gap10 import Models, Values, gap10, retrained_of, units, without
from benchmarks.study.methods import METHODS, default_method
from benchmarks.study.plan import (
    FURTHER_SEEDS,
    RETRAINED,
    TEST_SEEDS,
    TUNING_SEEDS,
    Record,
    RunSpec,
    Task,
    chosen_rate,
    model_line,
    seeds_with_all_rates,
)

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

ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm", "mia_reference")
GOOD_QUALITY = 0.05
"""Forget quality above which a Kolmogorov-Smirnov test does not tell the model from the retrained one."""


def models_of(seed: int, is_large: bool = False) -> Models:
    """A seed's model before unlearning, and its retrained models, as far as they have results."""
    lines = {name: model_line(name, seed, is_large) for name in ("before", *RETRAINED)}
    return {name: Record.read(line).values for name, line in lines.items() if line.exists()}


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


def worst_attack(values: Values, models: Models) -> float | None:
    """Largest difference in AUC to the retrained model's, over the membership attacks that both have."""
    found = [difference for name in ATTACKS if (difference := _difference(name)(values, models)) is not None]
    return max(found) if found else None


def _ratio(name: str) -> Callable[[Values, Models], float | None]:
    def ratio(values: Values, models: Models) -> float | None:
        ours, theirs = values.get(name), models["retrained"].get(name)
        return ours / theirs if ours is not None and theirs else None

    return ratio


def _difference(name: str) -> Callable[[Values, Models], float | None]:
    def difference(values: Values, models: Models) -> float | None:
        ours, theirs = values.get(name), models["retrained"].get(name)
        return None if ours is None or theirs is None else abs(ours - theirs)

    return difference


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
    "forget_rouge": _metric("forget_rouge"),
    "forget_rouge_difference": _difference("forget_rouge"),
    "forget_exact_memorization": _metric("forget_exact_memorization"),
    "forget_exact_memorization_difference": _difference("forget_exact_memorization"),
    "holdout_probability_ratio": _ratio("holdout_probability"),
    **{name: _metric(name) for name in ATTACKS},
    "worst_attack": worst_attack,
    "model_utility": _metric("model_utility"),
    "privleak": _metric("privleak"),
    "entanglement": _metric("entanglement_variance_ratio"),
    "retain_shift": _metric("entanglement_retain_shift"),
    "repetition": _metric("fluency_repetition"),
    "perplexity": _metric("fluency_perplexity"),
    "relearning_speed": _metric("relearning_speed"),
    "relearning_ratio": _ratio("relearning_speed"),
}
"""What is told of a method, by name: a function of a run's values and its seed's models."""


def summary(
    test_seeds: Sequence[int] = TEST_SEEDS, tuning_seeds: Sequence[int] = TUNING_SEEDS, task: Task = Task.STUDY
) -> dict[str, Any]:
    """The noise floor, the models and every method that has results, at the rate that the boundary rule chose.

    The units of `gap10` are those of `study_units`, so that they are the same for a few seeds.

    Args:
        test_seeds: the seeds that are told of, as far as they have results; `seeds` says how many these are.
        tuning_seeds: the seeds that choose the learning rates, as far as they have results.
        task: what was forgotten.
    """
    seeds = {seed: models_of(seed, task.is_large) for seed in test_seeds}
    seeds = {seed: models for seed, models in seeds.items() if {"before", "retrained"} <= set(models)}
    unit = study_units(task.is_large)
    told = {"noise_floor": noise_floor(seeds.values(), unit), **_of_models(seeds, unit)}
    for method in METHODS:
        rate = chosen_rate(method, tuning_seeds)
        specs = [] if rate is None else [RunSpec(method, rate, seed, task) for seed in seeds]
        specs = [spec for spec in specs if spec.evaluated.exists()]
        if specs:
            found = [(Record.read(spec.evaluated).values, seeds[spec.seed], seeds[spec.seed]) for spec in specs]
            tuned = len(seeds_with_all_rates(method, tuning_seeds))
            told[method] = {
                "learning_rate": rate,
                "tuning_seeds": tuned,
                "seeds": len(specs),
                **summarize(found, unit),
            }
    return {**told, "default": default_method()}


def study_units(is_large: bool = False) -> dict[str, float]:
    """The units of `gap10`: of the test seeds, or of those that the stress tests are made with."""
    return units(models_of(seed, is_large) for seed in (FURTHER_SEEDS if is_large else TEST_SEEDS))


def noise_floor(seeds: Iterable[Models], unit: dict[str, float]) -> dict[str, float | None]:
    """Mean distances of retrained models to each other, over seeds; None without a second one.

    `gap` is that of the others to the first, `gap10` that of each to the mean of the others.

    Args:
        seeds: of each seed, the models.
        unit: from `units`.
    """
    seeds = list(seeds)
    again = [
        (values, models) for models in seeds for name, values in retrained_of(models).items() if name != "retrained"
    ]
    left_out = [
        gap10(values, without(models, name), unit) for models in seeds for name, values in retrained_of(models).items()
    ]
    gaps, wide = [gap(*each) for each in again], [value for value in left_out if value is not None]
    return {
        "seeds": sum(len(retrained_of(models)) > 1 for models in seeds),
        "gap": statistics.fmean(gaps) if gaps else None,
        "gap10": statistics.fmean(wide) if wide else None,
    }


def best_methods(count: int) -> list[str]:
    """The methods nearest to the retrained model by `gap10` on the test seeds, the nearest first."""
    found = summary()
    wide = {name: found[name]["gap10"]["mean"] for name in METHODS if name in found and found[name]["gap10"]}
    return sorted(wide, key=lambda name: wide[name])[:count]


def _of_models(seeds: dict[int, Models], unit: dict[str, float]) -> dict[str, Any]:
    """The models that methods are compared with; "retrained again" is all but the first of the retrained ones."""
    told = {}
    for title, names in {"before": ("before",), "retrained": RETRAINED[:1], "retrained again": RETRAINED[1:]}.items():
        having = [(models, set(names) & set(models)) for models in seeds.values() if set(names) & set(models)]
        found = [(models[name], without(models, name), models) for models, each in having for name in sorted(each)]
        if found:
            told[title] = {"seeds": len(having), **summarize(found, unit)}
    return told


def summarize(found: list[tuple[Values, Models, Models]], unit: dict[str, float]) -> dict[str, Any]:
    """Mean and standard deviation of `gap10` and of each of `MEASURES`.

    Args:
        found: values, the models that `gap10` compares them with, and those that the other measures do.
        unit: from `units`.
    """
    quality = [values.get("forget_quality") for values, *_ in found]
    return {
        "gap10": _spread([gap10(values, others, unit) for values, others, _ in found]),
        **{
            name: _spread([measure(values, models) for values, _, models in found])
            for name, measure in MEASURES.items()
        },
        "forget_quality_over_05": _share(quality),
    }


def _share(quality: list[float | None]) -> float | None:
    known = [value for value in quality if value is not None]
    return statistics.fmean(value > GOOD_QUALITY for value in known) if known else None


def _spread(values: list[float | None]) -> dict[str, float] | None:
    """Mean and standard deviation (n - 1), or None if a seed has no value."""
    if not values or any(value is None for value in values):
        return None
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}
