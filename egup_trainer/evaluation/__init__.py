"""What a model says of rows, and what that tells: scores once, metrics after."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egup_trainer.evaluation.hf_metrics import ForgetQuality, ModelUtility, TruthRatio

__all__ = ["ForgetQuality", "ModelUtility", "TruthRatio"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # they need the package `evaluate`, which is an extra
        return getattr(import_module("egup_trainer.evaluation.hf_metrics"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
