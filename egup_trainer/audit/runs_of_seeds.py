"""Numbers of runs that differ in their seeds: their mean, and how far it may be from that of other seeds."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from egup_trainer.audit.attack import Band, Curve
from egup_trainer.evaluation.metric import NOT_FINITE, Metric, unavailable


def interval_over_seeds(values: Sequence[float], most: float = 1.0) -> tuple[float, float] | None:
    """The 95% interval of a mean, Student's t: mean +- t_{0.975, k - 1} s / sqrt(k), within 0 and `most`.

    Args:
        values: one of each of k runs, which differ in their seeds.
        most: what no value can exceed: 1 for probabilities.

    Returns:
        The bounds, or None for a single run or numbers that are not finite.

    Example:
        >>> [round(bound, 3) for bound in interval_over_seeds([0.4, 0.5, 0.6])]
        [0.252, 0.748]
    """
    from scipy.special import stdtrit

    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    margin = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return max(fmean(values) - margin, 0.0), min(fmean(values) + margin, most)


def metric_over_seeds(values: Sequence[float], first_seed: int, num_rows: int, most: float = 1.0) -> Metric:
    """The mean of what runs found on the same number of rows, with its interval; no value if one is not finite.

    Example:
        >>> metric_over_seeds([0.25, 0.75], first_seed=3, num_rows=9).values
        {'seeds': {3: 0.25, 4: 0.75}}
    """
    if not all(map(math.isfinite, values)):
        return unavailable(NOT_FINITE, num_skipped=num_rows)
    by_seed = {"seeds": dict(enumerate(values, start=first_seed))}
    return Metric(fmean(values), values=by_seed, num_samples=num_rows, interval=interval_over_seeds(values, most))


def mean_curve(curves: Sequence[Curve]) -> tuple[Curve, Band]:
    """The mean of curves with the same steps, and its interval at each step; no band for a single curve.

    Example:
        >>> mean_curve([[(0, 0.25), (2, 0.5)], [(0, 0.25), (2, 0.5)]])
        ([(0, 0.25), (2, 0.5)], [(0, 0.25, 0.25), (2, 0.5, 0.5)])
    """
    points = [(at[0][0], [value for _, value in at]) for at in zip(*curves, strict=True)]
    bands = ((step, interval_over_seeds(values)) for step, values in points)
    return (
        [(step, fmean(values)) for step, values in points],
        [(step, *bounds) for step, bounds in bands if bounds is not None],
    )
