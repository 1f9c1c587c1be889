"""The only place where a loss is looked up by name."""

from dataclasses import dataclass
from typing import Any, TypeVar

from egup_trainer.errors import ConfigError, did_you_mean
from egup_trainer.losses.altpo import AltPO
from egup_trainer.losses.base import ForgetLoss, RetainLoss
from egup_trainer.losses.ceu import CEU
from egup_trainer.losses.dpo import DPO, DPOOptions
from egup_trainer.losses.finetune import FineTune
from egup_trainer.losses.grad_ascent import GradientAscent
from egup_trainer.losses.grad_diff import GradientDifference
from egup_trainer.losses.npo import NPO, NPOOptions
from egup_trainer.losses.pdu import PDU, PDUOptions
from egup_trainer.losses.proxy_kl import ProxyKL, ProxyKLOptions
from egup_trainer.losses.retain_losses import RetainFeatures, RetainKL, RetainNLL
from egup_trainer.losses.rmu import RMU, RMUOptions
from egup_trainer.losses.satimp import SatImp, SatImpOptions
from egup_trainer.losses.simnpo import SimNPO, SimNPOOptions
from egup_trainer.losses.task_vector import TaskVector, TaskVectorOptions
from egup_trainer.losses.undial import UNDIAL, UNDIALOptions
from egup_trainer.losses.wga import WGA, WGAOptions


@dataclass
class ObjectiveOptions(
    TaskVectorOptions,
    ProxyKLOptions,
    PDUOptions,
    RMUOptions,
    DPOOptions,
    UNDIALOptions,
    SatImpOptions,
    WGAOptions,
    SimNPOOptions,
    NPOOptions,
):
    """The options of all objectives; dataclasses list the fields of the last base first."""


OBJECTIVES: dict[str, type[ForgetLoss]] = {
    "grad_ascent": GradientAscent,
    "grad_diff": GradientDifference,
    "npo": NPO,
    "simnpo": SimNPO,
    "wga": WGA,
    "satimp": SatImp,
    "ceu": CEU,
    "undial": UNDIAL,
    "dpo": DPO,
    "altpo": AltPO,
    "rmu": RMU,
    "pdu": PDU,
    "proxy_kl": ProxyKL,
    "task_vector": TaskVector,
    "finetune": FineTune,
}
"""Forget losses by the name that the option `objective` takes; `register_forget_loss` adds to it."""

RETAIN_LOSSES: dict[str, type[RetainLoss] | None] = {
    "nll": RetainNLL,
    "kl": RetainKL,
    "features": RetainFeatures,
    "none": None,
}
"""Retain losses by the name that the option `retain_loss` takes."""

_Value = TypeVar("_Value")


def register_forget_loss(name: str, loss: type[ForgetLoss]) -> type[ForgetLoss]:
    """Registers your own loss under a name.

    Args:
        name: what `objective` is to be set to.
        loss: its class.

    Raises:
        ConfigError: the name is taken, or `loss` is not a subclass of `ForgetLoss`.
    """
    if not (isinstance(loss, type) and issubclass(loss, ForgetLoss)):
        raise ConfigError(
            got=f"{loss!r} as a loss", expected="a subclass of ForgetLoss", fix="derive it from ForgetLoss"
        )
    if OBJECTIVES.get(name, loss) is not loss:
        raise ConfigError(got=f"the name {name!r} twice", expected="a new name", fix="choose another one")
    OBJECTIVES[name] = loss
    return loss


def forget_loss(name: str) -> type[ForgetLoss]:
    """The forget loss of that name.

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    return _look_up(OBJECTIVES, name, "objective")


def make_forget_loss(config: Any) -> ForgetLoss:
    """The forget loss that a training configuration names, with its options.

    Raises:
        ConfigError: there is no such loss, or `objective_kwargs` has an option that it does not have.
    """
    loss = forget_loss(config.objective)
    try:
        return loss.from_config(config)
    except TypeError as error:
        raise ConfigError(
            got=f"objective_kwargs={config.objective_kwargs} for objective={config.objective} ({error})",
            expected="the arguments of its constructor",
            fix="correct --objective_kwargs, or leave it out",
        ) from error


def retain_loss(name: str) -> type[RetainLoss] | None:
    """The retain loss of that name, or None for "none".

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    return _look_up(RETAIN_LOSSES, name, "retain_loss")


def _look_up(table: dict[str, _Value], name: str, option: str) -> _Value:
    if name in table:
        return table[name]
    raise ConfigError(
        got=f"{option}={name!r}",
        expected=f"one of {', '.join(table)}",
        fix=did_you_mean(name, table, f"choose one with --{option}"),
    )
