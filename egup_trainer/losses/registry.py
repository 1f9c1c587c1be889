"""The only place where a loss is looked up by name."""

from enum import Enum
from typing import TypeVar

from egup_trainer.errors import ConfigError, did_you_mean
from egup_trainer.losses.base import ForgetLoss, RetainLoss
from egup_trainer.losses.forget.finetune import FineTune
from egup_trainer.losses.forget.gradient_ascent import GradientAscent, GradientDifference
from egup_trainer.losses.forget.misdirection import RMU
from egup_trainer.losses.forget.npo import NPO
from egup_trainer.losses.forget.preference import DPO, AltPO
from egup_trainer.losses.forget.primal_dual import PDU
from egup_trainer.losses.forget.self_targets import CEU, UNDIAL
from egup_trainer.losses.forget.simnpo import SimNPO
from egup_trainer.losses.forget.task_vector import TaskVector
from egup_trainer.losses.forget.weighted_ascent import WGA, SatImp
from egup_trainer.losses.retain import RetainFeatures, RetainKL, RetainNLL


class Objective(str, Enum):
    """Forget objectives of the package."""

    GRAD_ASCENT = "grad_ascent"
    GRAD_DIFF = "grad_diff"
    NPO = "npo"
    SIMNPO = "simnpo"
    WGA = "wga"
    SATIMP = "satimp"
    CEU = "ceu"
    UNDIAL = "undial"
    DPO = "dpo"
    ALTPO = "altpo"
    RMU = "rmu"
    PDU = "pdu"
    TASK_VECTOR = "task_vector"
    FINETUNE = "finetune"


class RetainObjective(str, Enum):
    """Retain losses of the package."""

    NLL = "nll"
    KL = "kl"
    FEATURES = "features"
    NONE = "none"


_FORGET: dict[str, type[ForgetLoss]] = {
    Objective.GRAD_ASCENT: GradientAscent,
    Objective.GRAD_DIFF: GradientDifference,
    Objective.NPO: NPO,
    Objective.SIMNPO: SimNPO,
    Objective.WGA: WGA,
    Objective.SATIMP: SatImp,
    Objective.CEU: CEU,
    Objective.UNDIAL: UNDIAL,
    Objective.DPO: DPO,
    Objective.ALTPO: AltPO,
    Objective.RMU: RMU,
    Objective.PDU: PDU,
    Objective.TASK_VECTOR: TaskVector,
    Objective.FINETUNE: FineTune,
}
_RETAIN: dict[str, type[RetainLoss] | None] = {
    RetainObjective.NLL: RetainNLL,
    RetainObjective.KL: RetainKL,
    RetainObjective.FEATURES: RetainFeatures,
    RetainObjective.NONE: None,
}
_Value = TypeVar("_Value")


def register_forget_loss(name: str, loss: type[ForgetLoss]) -> type[ForgetLoss]:
    """Makes a user's own loss known by a name.

    Args:
        name: what `objective` is to be set to.
        loss: its class.

    Raises:
        ConfigError: the name is taken, or `loss` is no `ForgetLoss`.
    """
    if not (isinstance(loss, type) and issubclass(loss, ForgetLoss)):
        raise ConfigError(
            got=f"{loss!r} as a loss", expected="a subclass of ForgetLoss", fix="derive it from ForgetLoss"
        )
    if _FORGET.get(name, loss) is not loss:
        raise ConfigError(got=f"the name {name!r} twice", expected="a new name", fix="choose another one")
    _FORGET[name] = loss
    return loss


def forget_loss(name: str) -> type[ForgetLoss]:
    """The forget loss of that name.

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    return _look_up(_FORGET, name, "objective")


def retain_loss(name: str) -> type[RetainLoss] | None:
    """The retain loss of that name, or None for "none".

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    return _look_up(_RETAIN, name, "retain_loss")


def _look_up(table: dict[str, _Value], name: str, option: str) -> _Value:
    if name in table:
        return table[name]
    names = [key.value if isinstance(key, Enum) else key for key in table]
    raise ConfigError(
        got=f"{option}={name!r}",
        expected=f"one of {', '.join(names)}",
        fix=did_you_mean(name, names, f"choose one with --{option}"),
    )
