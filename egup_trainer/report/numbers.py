"""Numbers as a reader sees them."""

import math
from collections.abc import Sequence
from typing import Any

_MOST_NAMED = 20  # rows in a sentence; the JSON file names all


def finite_number(value: Any) -> float | None:
    """The value if it is a finite number, else None: results hold texts such as "nan" for numbers that are not finite.

    Example:
        >>> finite_number(2), finite_number("nan"), finite_number(float("inf")), finite_number(None)
        (2.0, None, None, None)
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def format_number(value: float | None) -> str:
    """Three digits where they say something, a power of ten where they do not.

    Example:
        >>> [format_number(value) for value in (0.5, 0.0421, -37.26, 1234.5, 3e-9, None)]
        ['0.500', '0.042', '-37.3', '1234', '3.0e-09', '-']
    """
    if value is None:
        return "-"
    size = abs(value)
    if size >= 10:
        return f"{value:.1f}" if size < 1000 else f"{value:.0f}"
    if size >= 0.01 or value == 0:
        return f"{value:.3f}"
    return f"{value:.4f}" if size >= 0.001 else f"{value:.1e}"


def listed(rows: Sequence[object]) -> str:
    """Rows by number, for a sentence; of many rows, the first twenty and how many more there are.

    Example:
        >>> listed([4]), listed([1, 3])
        ('row 4', 'rows 1, 3')
    """
    more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
    return f"row{'' if len(rows) == 1 else 's'} {', '.join(map(str, rows[:_MOST_NAMED]))}{more}"
