"""What a loss is: a pure function of a forward pass's numbers that returns one value a row."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor

from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.reference import Need
from egup_trainer.modeling.top_k_logps import TopKLogProbs


class Unit(str, Enum):
    """The scale in which a forget loss moves a row's negative log-likelihood."""

    MEAN = "mean"
    """l_i, nats per token."""
    SUM = "sum"
    """L_i, nats per answer."""


class Alternate(str, Enum):
    """Which answer a forget loss prefers to the one to forget."""

    REFUSAL = "refusal"
    """One that says that the model does not know."""
    GIVEN = "given"
    """One that the data has for the row."""


class Guidance(str, Enum):
    """A way in which EGUP and CLReg act on a run."""

    WEIGHTS = "weights"
    """A factor on each row's forget loss: both entanglements, and the proxy constraint as an effort."""
    PENALTY = "penalty"
    """The proxy constraint as a penalty."""
    CLREG = "clreg"
    """The contrastive regulariser."""


@dataclass(frozen=True)
class ReferenceOutputs:
    """What a loss may know of the model before unlearning.

    Args:
        sum_nll: L_i^0, shape (B,), if the loss has `Need.NLL`.
        logits: logits at the answer positions, shape (N, V), if the loss has `Need.LOGITS`.
        top_k_logps: the most likely tokens at the answer positions, if the loss has `Need.TOP_K` and the model is not
            at hand, which otherwise gives `logits`.
        hidden: hidden states at the answer tokens, shape (N, d), if the loss has `Need.HIDDEN`.
        alternate_nll: L^0 of the rows' alternate answers, shape (B,), if the loss has `Need.NLL` and an alternate.
    """

    sum_nll: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None
    alternate_nll: Tensor | None = None
    top_k_logps: TopKLogProbs | None = None


class ForgetLoss(ABC):
    """A forget objective. It never sees the model, has no side effects, and returns per-row values.

    Weights, the proxy constraint and the mean over the step's B_f rows are applied outside, once for all losses.

    Attributes:
        needs: what must be known of the model before unlearning.
        unit: scale of the loss; the penalty form of the proxy constraint follows it.
        reads_logits: whether it reads `outputs.logits`, the model's own distributions.
        reads_hidden: whether it reads `outputs.hidden`, the hidden states of the layer `rmu_layer`.
        alternate: the answers that it reads as `outputs.alternate`, or None.
        trains_mlp_alone: whether, without an adapter, only the MLP output projections of that layer and of the two
            below train.
        constrains_retain: whether the retain loss is a constraint, whose weight is learned by dual ascent.
        is_negated: whether what was learned is subtracted from the model at the end of training.
        carries: the ways in which EGUP and CLReg can act beside it. `carries_why` says why others cannot.
        pulls_back: whether a negative weight makes sense, that is: minus the loss is a sound way to learn a row again.
        needs_boundary: whether it must be told, by `for_boundary`, how far the boundary of proxies is.
        default_proxy_lambda: the strength of the proxy constraint unless the user names one.
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
    reads_hidden: bool = False
    alternate: Alternate | None = None
    trains_mlp_alone: bool = False
    constrains_retain: bool = False
    is_negated: bool = False
    carries: frozenset[Guidance] = frozenset(Guidance)
    carries_why: str = "it has nothing for them to act on"
    pulls_back: bool = True
    needs_boundary: bool = False
    default_proxy_lambda: float = 2.0
    default_retain_loss: str = "nll"

    @classmethod
    def from_config(cls, config: Any) -> "ForgetLoss":
        """The loss with the options of a training configuration, `config`."""
        return cls()

    def for_boundary(self, needed_rise: float) -> "ForgetLoss":
        """The loss for rows whose answers must become less likely by `needed_rise` nats to lie at their boundary."""
        return self

    @abstractmethod
    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        """Values to be minimised, shape (B,)."""


class RetainLoss(ABC):
    """A retain objective: per-row sums over answer tokens, divided outside by the answer tokens of the whole step."""

    needs: frozenset[Need] = frozenset()

    @abstractmethod
    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        """Values to be minimised, summed over each row's answer tokens, shape (B,)."""
