"""What a loss is: a pure function of a forward pass's numbers that returns one value a row."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor

from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.reference import Need


class Unit(str, Enum):
    """The scale in which a forget loss moves a row's negative log-likelihood."""

    MEAN = "mean"
    """l_i, nats per token."""
    SUM = "sum"
    """L_i, nats per answer."""


@dataclass(frozen=True)
class ReferenceOutputs:
    """What a loss may know of the model before unlearning.

    Args:
        sum_nll: L_i^0, shape (B,), if the loss has `Need.NLL`.
        logits: logits at the answer positions, shape (N, V), if the loss has `Need.LOGITS`.
    """

    sum_nll: Tensor | None = None
    logits: Tensor | None = None


class ForgetLoss(ABC):
    """A forget objective. It never sees the model, has no side effects, and returns per-row values.

    Weights, the proxy constraint and the mean over the step's B_f rows are applied outside, once for all losses.

    Attributes:
        needs: what must be known of the model before unlearning.
        unit: scale of the loss; the penalty form of the proxy constraint follows it.
        reads_logits: whether it reads `outputs.logits`, the model's own distributions.
        pulls_back: whether a negative weight makes sense, that is: minus the loss is a sound way to learn a row again.
        default_retain_loss: the retain loss that the objective is used with unless the user names one.

    Example:
        >>> class Square(ForgetLoss):
        ...     def __call__(self, outputs, reference):
        ...         return -outputs.mean_nll**2
        >>> from egup_trainer.losses.registry import register_forget_loss
        >>> _ = register_forget_loss("square", Square)
    """

    needs: frozenset[Need] = frozenset()
    unit: Unit = Unit.MEAN
    reads_logits: bool = False
    pulls_back: bool = True
    default_retain_loss: str = "nll"

    @classmethod
    def from_config(cls, config: Any) -> "ForgetLoss":
        """The loss with the options of a training configuration."""
        return cls()

    @abstractmethod
    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        """Values to be minimised, shape (B,)."""


class RetainLoss(ABC):
    """A retain objective: per-row sums over answer tokens, divided outside by the answer tokens of the whole step."""

    needs: frozenset[Need] = frozenset()

    @abstractmethod
    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        """Values to be minimised, summed over each row's answer tokens, shape (B,)."""
