"""Simple negative preference optimization: NPO without a reference model."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from egup_trainer.errors import check_range
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.options import OptionGroup, option


@dataclass
class SimNPOOptions(OptionGroup):
    """Options of `SimNPO`."""

    simnpo_beta: float = option(4.5, "SimNPO: inverse temperature beta, per nat of the mean over tokens; above 0.")
    simnpo_delta: float = option(0.0, "SimNPO: margin delta by which an answer must be unlikely; 0 or more.")

    def check_options(self) -> None:
        check_range(self, ("simnpo_beta",), low=0, low_is_allowed=False)
        check_range(self, ("simnpo_delta",), low=0)


class SimNPO(ForgetLoss):
    """Simple negative preference optimization (Fan et al. 2024, arXiv 2410.07163).

    Formula: -(2 / beta) * log sigmoid(beta * l_i - delta), with l_i the mean negative log-likelihood per answer token.

    Args:
        beta: inverse temperature, per nat of a token.
        delta: margin by which the answer must be unlikely.

    Requirements: a retain set.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Recommendations:
        - When there should be no reference model, or when answers differ much in length, because every row counts
          per token.

    Relations:
        - `NPO` measures the whole answer against the reference model.
        - As beta goes to 0 (with delta = 0), its gradient is that of `GradientDifference`.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([0.0]), torch.tensor([0]), torch.tensor([1.0]))
        >>> SimNPO(beta=2.0)(out, ReferenceOutputs())  # log 2
        tensor([0.6931])
    """

    config_fields: ClassVar[dict[str, str]] = {"beta": "simnpo_beta", "delta": "simnpo_delta"}

    def __init__(self, beta: float = 4.5, delta: float = 0.0):
        self.beta, self.delta = beta, delta

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return -2 / self.beta * logsigmoid(self.beta * outputs.mean_nll - self.delta)
