"""Unlearning for language models: a drop-in Hugging Face Trainer with EGUP and CLReg."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egup_trainer.audit.audit import Audit, audit_model
    from egup_trainer.audit.audit_options import AuditOptions
    from egup_trainer.components.boundary_metrics import BoundaryMetrics, boundary_objective
    from egup_trainer.components.component import Component
    from egup_trainer.config import EGUPConfig, UnlearnConfig
    from egup_trainer.data.sources import load_rows
    from egup_trainer.egup import EGUPTrainer
    from egup_trainer.errors import EgupError
    from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
    from egup_trainer.losses.registry import register_forget_loss
    from egup_trainer.modeling.outputs import AnswerOutputs
    from egup_trainer.proxies.writer import write_proxies
    from egup_trainer.trainer import UnlearnTrainer

# Imported when used: `egup --help` must not wait for torch.
_HOMES = {
    "AnswerOutputs": "egup_trainer.modeling.outputs",
    "Audit": "egup_trainer.audit.audit",
    "AuditOptions": "egup_trainer.audit.audit_options",
    "BoundaryMetrics": "egup_trainer.components.boundary_metrics",
    "Component": "egup_trainer.components.component",
    "EGUPConfig": "egup_trainer.config",
    "EGUPTrainer": "egup_trainer.egup",
    "EgupError": "egup_trainer.errors",
    "ForgetLoss": "egup_trainer.losses.base",
    "ReferenceOutputs": "egup_trainer.losses.base",
    "UnlearnConfig": "egup_trainer.config",
    "UnlearnTrainer": "egup_trainer.trainer",
    "audit_model": "egup_trainer.audit.audit",
    "boundary_objective": "egup_trainer.components.boundary_metrics",
    "load_rows": "egup_trainer.data.sources",
    "register_forget_loss": "egup_trainer.losses.registry",
    "write_proxies": "egup_trainer.proxies.writer",
}

__all__ = [
    "AnswerOutputs",
    "Audit",
    "AuditOptions",
    "BoundaryMetrics",
    "Component",
    "EGUPConfig",
    "EGUPTrainer",
    "EgupError",
    "ForgetLoss",
    "ReferenceOutputs",
    "UnlearnConfig",
    "UnlearnTrainer",
    "audit_model",
    "boundary_objective",
    "load_rows",
    "register_forget_loss",
    "write_proxies",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, which are imported when they are used."""
    return sorted([*globals(), *__all__])
