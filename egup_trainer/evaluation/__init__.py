"""What a model says of rows, and what that tells: scores once, metrics after."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egup_trainer.evaluation.hf_metrics import ForgetQuality, ModelUtility, TruthRatio
    from egup_trainer.evaluation.tofu_logs import forget_quality_from_tofu_logs, model_utility_from_tofu_log

_HOMES = {
    "ForgetQuality": "egup_trainer.evaluation.hf_metrics",
    "ModelUtility": "egup_trainer.evaluation.hf_metrics",
    "TruthRatio": "egup_trainer.evaluation.hf_metrics",
    "forget_quality_from_tofu_logs": "egup_trainer.evaluation.tofu_logs",
    "model_utility_from_tofu_log": "egup_trainer.evaluation.tofu_logs",
}

__all__ = [
    "ForgetQuality",
    "ModelUtility",
    "TruthRatio",
    "forget_quality_from_tofu_logs",
    "model_utility_from_tofu_log",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
