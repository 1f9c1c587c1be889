"""The value of a metric: the number, the per-sample numbers behind it, and its uncertainty."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Values = Mapping[int, float]
"""Per-sample numbers of a row set, by sample id."""

NOT_FINITE = "no row has a finite number"
_RESAMPLES = 1000
_MAX_RESAMPLED = 10_000_000  # numbers held at once


@dataclass(frozen=True)
class Metric:
    """A metric of one model.

    Args:
        value: the number, or None if it cannot be computed.
        higher_is_better: which way is good; None if only nearness to the retrained model counts. Metrics that are
            declared in the registry get it from their declaration.
        values: per-sample numbers behind the value, by row set, then by sample id.
        num_samples: samples that count in the value.
        num_skipped: samples of the row sets that do not count because they lack what the metric needs.
        interval: bounds of the 95% bootstrap interval, for means and areas under curves.
        reason: why `value` is None.

    Example:
        >>> mean_metric("forget", {0: 0.5, 1: 0.7}, num_rows=3, without="no answer").num_skipped
        1
    """

    value: float | None
    higher_is_better: bool | None = None
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    num_samples: int = 0
    num_skipped: int = 0
    interval: tuple[float, float] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"the value of a metric must be a finite number or None, not {self.value}")


def unavailable(
    reason: str, higher_is_better: bool | None = None, num_skipped: int = 0, **kept: dict[int, float]
) -> Metric:
    """A metric that cannot be computed, with the reason; `kept` are per-sample numbers that exist anyway, by row set.

    Example:
        >>> unavailable("no holdout rows").value is None
        True
    """
    return Metric(None, higher_is_better, values=kept, num_skipped=num_skipped, reason=reason)


def mean_metric(
    set_name: str, values: Values, *, num_rows: int, higher_is_better: bool | None = None, without: str
) -> Metric:
    """Unweighted mean over samples, with its bootstrap interval.

    Args:
        set_name: the row set.
        values: what could be computed, by sample id; numbers that are not finite are skipped.
        num_rows: rows of the set.
        higher_is_better: see `Metric`.
        without: the reason if there are no values at all.

    Example:
        >>> values = {0: 1.0, 1: 3.0}
        >>> mean_metric("forget", values, num_rows=2, without="no row has an answer").value
        2.0
    """
    kept = finite(values)
    if not kept:
        return unavailable(NOT_FINITE if values else without, higher_is_better, num_skipped=num_rows)
    numbers = np.fromiter(kept.values(), dtype=np.float64)
    return Metric(
        value=float(numbers.mean()),
        higher_is_better=higher_is_better,
        values={set_name: kept},
        num_samples=len(kept),
        num_skipped=num_rows - len(kept),
        interval=bootstrap_interval(np.mean, numbers),
    )


def auc_metric(low: tuple[str, Values], high: tuple[str, Values], *, num_rows: int) -> Metric:
    """Area under the ROC curve between two row sets, P(low < high) + P(low = high) / 2, with its interval.

    Args:
        low: name and per-sample numbers of the set that is expected to have the lower ones (members, for an attack).
        high: those of the other set.
        num_rows: rows of both sets.
    """
    kept = {name: finite(values) for name, values in (low, high)}
    empty = [name for name, values in kept.items() if not values]
    if empty:
        reason = f"no {' and no '.join(empty)} rows with this number"
        return Metric(None, None, values=kept, num_skipped=num_rows, reason=reason)
    first, second = (np.fromiter(kept[name].values(), dtype=np.float64) for name, _ in (low, high))
    return Metric(
        value=float(area_under_curve(first, second)),
        values=kept,
        num_samples=len(first) + len(second),
        num_skipped=num_rows - len(first) - len(second),
        interval=bootstrap_interval(area_under_curve, first, second),
    )


def finite(values: Values) -> dict[int, float]:
    """The entries whose number is finite.

    Example:
        >>> finite({0: 1.0, 1: math.nan})
        {0: 1.0}
    """
    return {sample: float(value) for sample, value in values.items() if math.isfinite(value)}


def area_under_curve(low: np.ndarray, high: np.ndarray, axis: int = -1) -> np.ndarray:
    """P(low < high) + P(low = high) / 2 over all pairs, along an axis.

    Example:
        >>> float(area_under_curve(np.array([1.0, 2.0]), np.array([2.0, 3.0])))
        0.875
    """
    from scipy.stats import mannwhitneyu

    wins = mannwhitneyu(high, low, axis=axis, method="asymptotic").statistic
    return wins / (low.shape[axis] * high.shape[axis])


def bootstrap_interval(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> tuple[float, float] | None:
    """95% percentile interval over 1,000 resamples, with a fixed seed; None if a set has fewer than two samples.

    Args:
        samples: one array of numbers for each set, resampled independently.

    Example:
        >>> bootstrap_interval(np.mean, np.array([1.0])) is None
        True
    """
    from scipy.stats import bootstrap

    if min(map(len, samples)) < 2:
        return None
    interval = bootstrap(
        samples,
        statistic,
        n_resamples=_RESAMPLES,
        batch=max(1, _MAX_RESAMPLED // sum(map(len, samples))),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)
