"""Simple negative preference optimization: NPO without a reference model."""

from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs


class SimNPO(ForgetLoss):
    """Simple negative preference optimization (Fan et al. 2024, arXiv 2410.07163).

    Formula: -(2 / beta) * log sigmoid(beta * l_i - delta), with l_i the mean negative log-likelihood per answer token.

    Args:
        beta: inverse temperature, per nat of a token.
        delta: margin by which the answer must be unlikely.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([0.0]), torch.tensor([0]), torch.tensor([1.0]))
        >>> SimNPO(beta=2.0)(out, ReferenceOutputs())  # log 2
        tensor([0.6931])
    """

    def __init__(self, beta: float = 4.5, delta: float = 0.0):
        self.beta, self.delta = beta, delta

    @classmethod
    def from_config(cls, config: Any) -> "SimNPO":
        return cls(beta=config.simnpo_beta, delta=config.simnpo_delta)

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return -2 / self.beta * logsigmoid(self.beta * outputs.mean_nll - self.delta)
