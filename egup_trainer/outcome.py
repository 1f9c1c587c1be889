"""What a run left: names in its record, and what its log says of weights that stayed and retain rows that went."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

BEFORE, AFTER, MERGED, IN_4BIT = "before", "after", "merged", "merged, in 4 bits"
"""When the probabilities in a record were measured."""
UNMOVED_ABOVE = 0.9
"""Share of unmoved weights from which on a run has changed almost nothing."""
MOST_RISE = 2.0
"""Retain loss at the end over that at the beginning from which on a run has damaged what it should keep."""
LEAST_RISE = 0.1
"""Nats a token, less than which is no damage."""

Log = Sequence[Mapping[str, Any]]
"""Rows as a Trainer keeps them in `state.log_history`."""


def unmoved_share(log: Log) -> float | None:
    """The share of trainable weights that did not move, if that was almost all of them; else None.

    Example:
        >>> unmoved_share([{"weights_unmoved": 0.97}]), unmoved_share([{"weights_unmoved": 0.2}])
        (0.97, None)
    """
    share = next((row["weights_unmoved"] for row in reversed(log) if "weights_unmoved" in row), None)
    return share if _is_number(share) and share > UNMOVED_ABOVE else None


def retain_damage(log: Log) -> tuple[float, float] | None:
    """First and last logged retain loss, nats a token, if it more than doubled; else None.

    Example:
        >>> retain_damage([{"retain_nll": 0.5}, {"retain_nll": 1.2}]), retain_damage([{"retain_nll": 0.5}])
        ((0.5, 1.2), None)
    """
    logged = [row["retain_nll"] for row in log if _is_number(row.get("retain_nll"))]
    if logged and logged[-1] > max(MOST_RISE * logged[0], logged[0] + LEAST_RISE):
        return logged[0], logged[-1]
    return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float)  # results hold text for what is not finite
