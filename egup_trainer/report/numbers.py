"""Numbers as a reader sees them."""

import math
from typing import Any

from egup_trainer.report.comparison import format_probability


def finite_number(value: Any) -> float | None:
    """The value if it is a finite number; None for all else, such as the text "nan", which results have for no number.

    Example:
        >>> finite_number(2), finite_number("nan"), finite_number(float("inf")), finite_number(None)
        (2.0, None, None, None)
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def format_number(value: float | None) -> str:
    """Three digits where they tell something, a power of ten where they do not.

    Example:
        >>> [format_number(value) for value in (0.0421, -37.26, 1234.5, 3e-9, None)]
        ['0.042', '-37.3', '1234', '3.0e-09', '-']
    """
    if value is None or abs(value) < 10:
        sign = "-" if value is not None and value < 0 else ""
        return sign + format_probability(None if value is None else abs(value))
    return f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
