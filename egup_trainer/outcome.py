"""What a run left: names in its record, and what its numbers say of weights that stayed and retain rows that went."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

BEFORE, AFTER, MERGED, IN_4BIT = "before", "after", "merged", "merged, in 4 bits"
"""When the probabilities in a record were measured."""
UNMOVED_ABOVE = 0.9
"""Share of unmoved weights from which on a run has changed almost nothing."""
MOST_LOSS = 0.1
"""Share of their probability that rows may lose and still count as about as likely as before. Of a typical token it is
a rise by about 0.1 nats, the limit within which `stop_at_boundary` holds retain rows (`stop_retain_rise`)."""
LEAST_KNOWN = 0.1
"""Probability below which a model cannot be said to know rows: one without any training is as unsure of all rows."""

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


def is_damaged(before: float, after: float) -> bool:
    """Whether rows that were to be kept have lost more than a tenth of their mean probability.

    Example:
        >>> is_damaged(0.982, 0.489), is_damaged(0.982, 0.898)
        (True, False)
    """
    return after < (1 - MOST_LOSS) * before


def knows_proxies(forget: float, proxy: float) -> bool:
    """Whether a model gives proxies nearly the probability that it gives the forget rows, so that none are forgotten.

    Args:
        forget, proxy: mean probabilities under the model before unlearning.

    Example:
        >>> knows_proxies(0.98, 0.97), knows_proxies(0.98, 0.2), knows_proxies(0.003, 0.003)
        (True, False, False)
    """
    return proxy >= LEAST_KNOWN and not is_damaged(forget, proxy)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float)  # results hold text for what is not finite
