"""The errors a user can meet: one line that says what was got, what is expected and what to do."""

from enum import Enum
from functools import partial
from typing import Any, TypeVar

_Choice = TypeVar("_Choice", bound=Enum)
_INFINITY = float("inf")


class EgupError(ValueError):
    """Base of all errors that this package raises on purpose.

    The command line prints such an error as one line and exits with code 2.

    Args:
        got: what was found, in a few words (never the text of a row).
        expected: what should have been there.
        fix: what the reader can do about it.

    Example:
        >>> str(EgupError(got="0 rows", expected="at least 1", fix="check the file"))
        'got 0 rows; expected at least 1; check the file'
    """

    def __init__(self, *, got: str, expected: str, fix: str):
        super().__init__(f"got {got}; expected {expected}; {fix}")
        self._parts = {"got": got, "expected": expected, "fix": fix}

    def __reduce__(self) -> tuple:  # data-loader workers send errors through pickle
        return partial(type(self), **self._parts), ()


class ConfigError(EgupError):
    """An option has a value that cannot work, or two options exclude each other."""


class DataError(EgupError):
    """A row, a file or a data set cannot be used."""


class ModelError(EgupError):
    """A model or tokenizer cannot be used for what was asked."""


class NumberError(EgupError):
    """A loss or a gradient is not a finite number."""


class StateError(EgupError):
    """A saved file does not belong to this run, or a folder cannot be written to."""


def choose(choices: type[_Choice], value: Any, name: str) -> _Choice:
    """The member of an enumeration that an option's value names.

    Raises:
        ConfigError: there is no such member; the message lists all of them.
    """
    try:
        return choices(value)
    except ValueError:
        allowed = ", ".join(choice.value for choice in choices)
        raise ConfigError(got=f"{name}={value!r}", expected=f"one of {allowed}", fix=f"set --{name}") from None


def check_range(
    config: Any,
    names: tuple[str, ...],
    low: float,
    high: float = _INFINITY,
    low_is_allowed: bool = True,
    whole: bool = False,
) -> None:
    """Raises `ConfigError` if one of the named values, None apart, is not a number in the range."""
    for name in names:
        value = getattr(config, name)
        fits = isinstance(value, int if whole else int | float)
        if value is None or (fits and low <= value <= high and value < _INFINITY and (low_is_allowed or value > low)):
            continue
        bound = f"a {'whole ' if whole else ''}number {'of at least' if low_is_allowed else 'above'} {low:g}"
        upper = f" and at most {high:g}" if high < _INFINITY else ""
        raise ConfigError(got=f"{name}={value}", expected=bound + upper, fix=f"set --{name}")


def read_number_or_auto(name: str, value: Any) -> float | str:
    """A number above 0, or "auto"; text that spells a number is one.

    Raises:
        ConfigError: it is neither.
    """
    if value == "auto":
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < _INFINITY:
        raise ConfigError(got=f"{name}={value}", expected="a number above 0, or auto", fix=f"set --{name}")
    return number
