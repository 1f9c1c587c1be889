"""What a model should still know: model utility."""

from collections.abc import Iterable, Mapping
from typing import Any

from egup_trainer.evaluation.metric import Metric, unavailable

UTILITY_SETS = ("retain", "real_authors", "world_facts")
UTILITY_PARTS = ("probability", "rouge", "truth_ratio")


def model_utility(metrics: Mapping[str, Metric], sets: tuple[str, ...] = UTILITY_SETS) -> Metric:
    """Harmonic mean of probability, ROUGE and truth ratio on each of the sets; 0 as soon as one of them is 0.

    Formula: n / sum_p (1 / p) over its n parts p.

    TOFU's has nine parts: three sets, the probability with options on real authors and world facts (Maini et al. 2024,
    arXiv 2401.06121). A suite with one retain set has three.

    Args:
        metrics: by name, `SET_PART`.
        sets: which row sets count.
    """
    names = [f"{row_set}_{part}" for row_set in sets for part in UTILITY_PARTS]
    parts: dict[str, Any] = {name: metrics.get(name) for name in names}
    missing = [name for name, part in parts.items() if part is None or part.value is None]
    if missing:
        reasons = {metrics[name].reason or "" for name in missing if name in metrics} - {""}
        return unavailable(f"no {', '.join(missing)}" + (f" ({'; '.join(sorted(reasons))})" if reasons else ""), True)
    return Metric(
        value=harmonic_mean(part.value for part in parts.values()),
        higher_is_better=True,
        num_samples=sum(min(parts[f"{name}_{part}"].num_samples for part in UTILITY_PARTS) for name in sets),
        num_skipped=sum(max(parts[f"{name}_{part}"].num_skipped for part in UTILITY_PARTS) for name in sets),
    )


def harmonic_mean(parts: Iterable[float]) -> float:
    """Harmonic mean; 0 as soon as one part is 0.

    Example:
        >>> harmonic_mean([1.0, 0.5]), harmonic_mean([1.0, 0.0])
        (0.6666666666666666, 0.0)
    """
    from scipy.stats import hmean

    return float(hmean(list(parts)))
