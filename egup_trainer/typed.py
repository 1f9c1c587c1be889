"""Whether what was read from a file has the types that its class says: JSON written by hand may hold anything."""

import math
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_types(value: Any) -> None:
    """Raises `TypeError` for an object of a dataclass in which something is not of the type that is annotated.

    A number must be finite, and True is none. Fields annotated as `Any` may hold anything.

    Example:
        >>> from egup_trainer.evaluation.evaluation import SetFacts
        >>> check_types(SetFacts(num_rows="many", fingerprint="0f"))
        Traceback (most recent call last):
        TypeError: num_rows of SetFacts
    """
    for name, kind in get_type_hints(type(value)).items():
        if not _fits(getattr(value, name), kind):
            raise TypeError(f"{name} of {type(value).__name__}")


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if isinstance(kind, type) and is_dataclass(kind):
        check_types(value)
        return isinstance(value, kind)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if origin in (UnionType, Union):
        return any(_fits(value, each) for each in inner)
    if type(value) is not (origin or kind):
        return False
    if origin is dict:
        return all(_fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items())
    if origin is tuple:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return all(_fits(item, inner[0]) for item in value) if origin is list else True
