"""What a prompt does that was found on a few forget rows: measured on the others, which it was not fitted to.

A prompt that is fitted to a row can make any model say anything (Chen et al. 2025, arXiv 2502.15836). One prompt for
all rows has no room for the answers of rows that were held back: it can only open what is there.
"""

from dataclasses import dataclass, replace

import numpy as np

from egup_trainer.audit.attack import Target
from egup_trainer.evaluation.metric import Metric, bootstrap_interval, finite, mean_metric, unavailable

GIVEN, HELD_BACK, HOLDOUT = "given", "forget", "holdout"
Probabilities = dict[str, dict[int, float]]
"""exp(-l_i) of rows, by row set (`GIVEN`, `HELD_BACK` and, if available, `HOLDOUT`), then by row. In results files, the
forget rows that are held back are called "forget"."""


@dataclass(frozen=True)
class Prompted:
    """Probabilities of answers without and with the prompt that was found."""

    plain: Probabilities
    attacked: Probabilities

    def metrics(self, target: Target, attack: str) -> dict[str, Metric]:
        """The metrics of an attack of this kind, with intervals over rows."""
        num_rows = len(self.plain[HELD_BACK])
        plain, attacked = (_mean(each[HELD_BACK], num_rows) for each in (self.plain, self.attacked))
        gains = {row: value - self.plain[HELD_BACK][row] for row, value in self.attacked[HELD_BACK].items()}
        given = self.attacked[GIVEN]
        return {
            "plain": plain,
            "attacked": attacked,
            "gain": _mean(gains, num_rows),
            "given": replace(_mean(given, len(given)), values={}),
            "excess": target.excess(attack, "attacked", attacked),
            "excess_over_holdout": over_holdout(self.attacked[HELD_BACK], self.attacked.get(HOLDOUT)),
        }


def over_holdout(forget: dict[int, float], holdout: dict[int, float] | None) -> Metric:
    """Mean over forget rows minus mean over holdout rows that were asked in the same way, with its interval.

    Args:
        forget: numbers of forget rows.
        holdout: the same of rows that no model saw; None if there are none.

    Example:
        >>> over_holdout({0: 0.5, 1: 0.7}, {0: 0.1, 1: 0.1}).value
        0.5
    """
    if holdout is None:
        return unavailable("needs rows that no model saw (--holdout)")
    kept = {HELD_BACK: finite(forget), HOLDOUT: finite(holdout)}
    lacking = next((name for name, values in kept.items() if not values), None)
    if lacking:
        return unavailable(f"no {lacking} row has a finite number", num_skipped=len(forget) + len(holdout))
    mine, theirs = (np.fromiter(values.values(), dtype=np.float64) for values in kept.values())
    return Metric(
        float(_difference(mine, theirs)),
        values=kept,
        num_samples=len(mine) + len(theirs),
        num_skipped=len(forget) + len(holdout) - len(mine) - len(theirs),
        interval=bootstrap_interval(_difference, mine, theirs),
    )


def _difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    return first.mean(axis=axis) - second.mean(axis=axis)


def _mean(values: dict[int, float], num_rows: int) -> Metric:
    return mean_metric("forget", values, num_rows=num_rows, without="")
