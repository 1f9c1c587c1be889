"""Deprecated: `audit_model` is in `egup_trainer`."""

import warnings
from typing import Any

from egup_trainer.audit import audit


def __getattr__(name: str) -> Any:
    if name != "audit_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "egup_trainer.audit.run is deprecated: use egup_trainer.audit_model.", DeprecationWarning, stacklevel=2
    )
    return audit.audit_model
