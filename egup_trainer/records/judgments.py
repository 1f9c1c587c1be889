"""Judges the numbers of a run: weights that did not change, retain rows that were damaged, proxies that are known."""

from collections.abc import Mapping, Sequence
from typing import Any

BEFORE, AFTER, MERGED, IN_4BIT = "before", "after", "merged", "merged, in 4 bits"
"""When the probabilities in a record were measured."""
UNMOVED_ABOVE = 0.9
"""Share of unmoved weights above which a run has changed almost nothing."""
MOST_LOSS = 0.1
"""Share of their probability that rows may lose and still count as about as likely as before. For a typical token this
is a rise by about 0.1 nats, the limit within which `stop_at_boundary` holds retain rows (`stop_retain_rise`)."""
LEAST_KNOWN = 0.1
"""Probability below which a model does not know rows: an untrained model is equally unsure of all rows."""


def unmoved_share(log: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of trainable weights that did not move, if that was almost all of them; else None.

    Args:
        log: rows of a Trainer's `state.log_history`.

    Example:
        >>> unmoved_share([{"weights_unmoved": 0.97}]), unmoved_share([{"weights_unmoved": 0.2}])
        (0.97, None)
    """
    share = next((row["weights_unmoved"] for row in reversed(log) if "weights_unmoved" in row), None)
    # Results hold text for a number that is not finite.
    return share if isinstance(share, int | float) and share > UNMOVED_ABOVE else None


def is_damaged(before: float, after: float) -> bool:
    """Whether retain rows have lost more than a tenth of their mean probability.

    Example:
        >>> is_damaged(0.982, 0.489), is_damaged(0.982, 0.898)
        (True, False)
    """
    return after < (1 - MOST_LOSS) * before


def knows_proxies(forget: float, proxy: float) -> bool:
    """Whether a model gives proxies nearly the probability of the forget rows, so that nothing is left to forget.

    Args:
        forget, proxy: mean probabilities under the initial model.

    Example:
        >>> knows_proxies(0.98, 0.97), knows_proxies(0.98, 0.2), knows_proxies(0.003, 0.003)
        (True, False, False)
    """
    return proxy >= LEAST_KNOWN and not is_damaged(forget, proxy)
