"""What a loss is: a pure function of the numbers of a forward pass that returns one value per row."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.reference import Need
from egup_trainer.modeling.top_k_logps import TopKLogProbs

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback


class Unit(str, Enum):
    """The scale in which a forget loss moves a row's negative log-likelihood."""

    MEAN = "mean"
    """l_i, nats per token."""
    SUM = "sum"
    """L_i, nats per answer."""


class Alternate(str, Enum):
    """Which answer a forget loss prefers to the one to forget."""

    REFUSAL = "refusal"
    """An answer that says that the model does not know."""
    GIVEN = "given"
    """An alternate answer that the data provides for the row."""


class Guidance(str, Enum):
    """A way in which a component acts on the loss of a run, in addition to the forget loss."""

    WEIGHTS = "weights"
    """It multiplies each row's forget loss by a factor: both entanglements, and the proxy constraint as an effort."""
    TERMS = "terms"
    """It adds a term to the loss: the proxy constraint as a penalty, and CLReg."""


@dataclass(frozen=True)
class ReferenceOutputs:
    """What a loss may know of the reference model, that is the model before unlearning.

    Args:
        sum_nll: L_i^0, shape (B,), if the loss has `Need.NLL`.
        logits: logits at the answer positions, shape (N, V), if the loss has `Need.LOGITS`.
        top_k_logps: the top-k log-probabilities at the answer positions, if the loss has `Need.TOP_K` and they were
            recorded before training. Otherwise the model gives `logits`. With `Need.EXPECTED`, the expected outputs,
            the answer's token first.
        hidden: hidden states at the answer tokens, shape (N, d), if the loss has `Need.HIDDEN`.
        alternate_nll: L^0 of the rows' alternate answers, shape (B,), if the loss has `Need.NLL` and an alternate.
    """

    sum_nll: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None
    alternate_nll: Tensor | None = None
    top_k_logps: TopKLogProbs | None = None


@dataclass(frozen=True)
class RetainConstraint:
    """Makes the retain loss a constraint, retain <= `bound`, whose multiplier is learned by dual ascent.

    Args:
        bound: eps, nats per answer token.
        start: the multiplier mu at the start.
        rate: step size of the dual ascent.
        warmup_epochs: epochs in which the multiplier does not change.
    """

    bound: float
    start: float
    rate: float
    warmup_epochs: float = 0.0


class ForgetLoss(ABC):
    """A forget objective: a function of what a forward pass returned, without side effects, with one value per row.

    Weights, the proxy constraint and the mean over the B_f rows of the step are applied outside, once for all losses.

    Attributes:
        needs: what the loss must know of the model before unlearning.
        unit: scale of the loss; the penalty form of the proxy constraint follows it.
        reads_logits: whether it reads `outputs.logits`, the distributions of the model itself.
        reads_hidden: whether it reads `outputs.hidden`, the hidden states of the layer `rmu_layer`.
        alternate: which alternate answers it reads as `outputs.alternate`, or None.
        retain_constraint: if set, the retain loss is a constraint whose multiplier is learned.
        supports: the ways in which other components can be combined with it.
        unsupported_reason: why they cannot act in the other ways.
        supports_negative_weight: whether minus the loss is a sound way to learn a row again. If not, efforts of the
            proxy constraint stop at 0.
        raises_nll: whether it makes forget rows less likely while it trains, for `auto` to see how far they have come.
        needs_boundary: whether `for_boundary` must tell it how far away the boundary of the proxies is.
        sets_boundary: whether it marks itself how far to forget, so that the proxy constraint has nothing to add.
        default_proxy_lambda: the strength of the proxy constraint unless the user sets one.
        default_retain_loss: the retain loss that is used unless the user sets one.
        default_retain_weight: its weight unless the user sets one.
        config_fields: which field of the configuration holds each argument of the constructor.

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
    retain_constraint: RetainConstraint | None = None
    supports: frozenset[Guidance] = frozenset(Guidance)
    unsupported_reason: str = "it has nothing for them to act on"
    supports_negative_weight: bool = True
    raises_nll: bool = True
    needs_boundary: bool = False
    sets_boundary: bool = False
    default_proxy_lambda: float = 2.0
    default_retain_loss: str = "nll"
    default_retain_weight: float = 1.0
    config_fields: ClassVar[dict[str, str]] = {}

    @classmethod
    def from_config(cls, config: Any) -> "ForgetLoss":
        """The loss with the options of `config`, a training configuration: its fields, then its `objective_kwargs`."""
        options = {name: getattr(config, field) for name, field in cls.config_fields.items()}
        return cls(**{**options, **(getattr(config, "objective_kwargs", None) or {})})

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raises `ConfigError` if `config`, a training configuration, contradicts the objective."""
        return

    def for_boundary(self, needed_rise: float) -> "ForgetLoss":
        """The loss for rows whose answers must become less likely by `needed_rise` nats to reach their boundary."""
        return self

    def prepare_model(self, model: Any, config: Any) -> None:
        """Prepares `model` for a training with `config`, such as by freezing weights."""
        return

    def callbacks(self, trainer: "Trainer") -> list["TrainerCallback"]:
        """Callbacks for `trainer` that the objective needs. They are called before all others."""
        return []

    @abstractmethod
    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        """Values to be minimised, shape (B,)."""


class RetainLoss(ABC):
    """A retain objective: per-row sums over answer tokens, divided outside by the answer tokens of the whole step."""

    needs: frozenset[Need] = frozenset()

    @abstractmethod
    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        """Values to be minimised, summed over each row's answer tokens, shape (B,)."""
