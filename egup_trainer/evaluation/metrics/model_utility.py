"""Model utility: what a model should still know (TOFU, Maini et al. 2024, arXiv 2401.06121)."""

from collections.abc import Iterable

from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.metric_registry import Direction, Measured, Section, suite_metric
from egup_trainer.evaluation.scores import RowRole

UTILITY_PARTS = ("probability", "rouge", "truth_ratio")


@suite_metric(
    "model_utility",
    Section.SUMMARY,
    label="Model utility",
    meaning="Harmonic mean of probability, ROUGE and truth ratio on rows to be kept.",
    direction=Direction.HIGHER,
    needs="retain rows that have the three parts",
    reads=(),
    builds_on=UTILITY_PARTS,
)
def model_utility(model: Measured) -> Metric:
    """n / sum_p (1 / p), the harmonic mean of probability, ROUGE and truth ratio on each set of rows to keep; 0 as soon
    as one of the n parts is 0. TOFU has nine parts: retain, real authors, world facts; `custom` has three.
    """
    kept = [name for name, rows in model.sets.items() if rows.use.role in (RowRole.RETAIN, RowRole.CHOICE)]
    parts = {
        f"{name}_{part}": model.metrics.get(f"{name}_{part}") for name in kept or ["retain"] for part in UTILITY_PARTS
    }
    found = {name: part for name, part in parts.items() if part is not None and part.value is not None}
    if len(found) < len(parts):
        missing = {name: part for name, part in parts.items() if name not in found}
        reasons = sorted({part.reason for part in missing.values() if part is not None and part.reason})
        return unavailable(f"no {', '.join(missing)}" + (f" ({'; '.join(reasons)})" if reasons else ""))
    by_set = [
        list(found.values())[start : start + len(UTILITY_PARTS)] for start in range(0, len(found), len(UTILITY_PARTS))
    ]
    return Metric(
        value=harmonic_mean(part.value for part in found.values() if part.value is not None),
        num_samples=sum(min(part.num_samples for part in rows) for rows in by_set),
        num_skipped=sum(max(part.num_skipped for part in rows) for rows in by_set),
    )


def harmonic_mean(parts: Iterable[float]) -> float:
    """Harmonic mean; 0 as soon as one part is 0.

    Example:
        >>> harmonic_mean([1.0, 0.5]), harmonic_mean([1.0, 0.0])
        (0.6666666666666666, 0.0)
    """
    from scipy.stats import hmean

    return float(hmean(list(parts)))
