"""Primal-dual unlearning: flat logits on forget rows under a constraint on retain rows."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from egup_trainer.errors import ConfigError, check_range
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs, RetainConstraint
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.options import OptionGroup, option


@dataclass
class PDUOptions(OptionGroup):
    """Options of `PDU`."""

    pdu_retain_eps: float = option(
        0.3,
        "PDU: bound on the retain loss, nats per answer token; somewhat above its value before unlearning; 0 or more.",
    )
    pdu_dual_start: float = option(50.0, "PDU: multiplier of the retain loss at the start (mu); 0 or more.")
    pdu_dual_rate: float = option(1.0, "PDU: step size of the multiplier's dual ascent; above 0.")
    pdu_warmup_epochs: float = option(0.0, "PDU: epochs in which the multiplier does not change; 0 or more.")

    def check_options(self) -> None:
        check_range(self, ("pdu_retain_eps", "pdu_dual_start", "pdu_warmup_epochs"), low=0)
        check_range(self, ("pdu_dual_rate",), low=0, low_is_allowed=False)


class PDU(ForgetLoss):
    """Logit-margin flattening of primal-dual unlearning (Entesari et al. 2025, arXiv 2506.05314).

    Formula: mean over answer tokens of (max_v z_v - mean_v z_v)^2, z the logits there. It is 0 where all tokens are
    equally likely. The retain loss is a constraint beside it, whose multiplier is learned by dual ascent.

    Args:
        retain_eps: bound on the retain loss, nats per answer token.
        dual_start: the multiplier at the start.
        dual_rate: step size of the dual ascent.
        warmup_epochs: epochs in which the multiplier does not change.

    Requirements: a retain set and a retain loss.

    Inputs: `outputs` with logits (N, V). Returns shape (B,), squared units of logits.

    Recommendations:
        - When you know a bound that the retain loss must not exceed.

    Relations:
        - Negative efforts count as 0, because a margin can grow without limit.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(
        ...     torch.tensor([-1.0]), torch.tensor([0]), torch.tensor([1.0]), logits=torch.tensor([[3.0, 0.0, 0.0]])
        ... )
        >>> PDU()(out, ReferenceOutputs())  # (3 - 1)^2
        tensor([4.])
    """

    reads_logits = True
    supports_negative_weight = False
    config_fields: ClassVar[dict[str, str]] = {
        "retain_eps": "pdu_retain_eps",
        "dual_start": "pdu_dual_start",
        "dual_rate": "pdu_dual_rate",
        "warmup_epochs": "pdu_warmup_epochs",
    }

    def __init__(
        self, retain_eps: float = 0.3, dual_start: float = 50.0, dual_rate: float = 1.0, warmup_epochs: float = 0.0
    ):
        self.retain_constraint = RetainConstraint(retain_eps, dual_start, dual_rate, warmup_epochs)

    @classmethod
    def check_config(cls, config: Any) -> None:
        if config.retain_loss == "none" or not config.retain_weight:
            raise ConfigError(
                got=f"objective={config.objective} without a retain loss",
                expected="a retain loss: it is the constraint under which rows are forgotten",
                fix="leave out --retain_loss and --retain_weight",
            )

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        logits = required(outputs.logits, "logits")  # (N, V)
        margins = logits.amax(dim=-1) - logits.mean(dim=-1)  # (N,)
        return outputs.sum_per_row(margins.square()) / outputs.num_tokens.clamp_min(1)
