"""Deprecated: the functions of this module are in `egup_trainer.records`."""

import warnings
from typing import Any

from egup_trainer.records import card, io

_MOVED = {"read_record": io.read_record, "update_metrics": card.update_metrics}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _MOVED[name].__module__
    warnings.warn(f"egup_trainer.model_card.{name} is deprecated: use {home}.{name}.", DeprecationWarning, stacklevel=2)
    return _MOVED[name]
