"""Negative preference optimization."""

from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs, Unit
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.reference import Need


class NPO(ForgetLoss):
    """Negative preference optimization (Zhang et al. 2024, arXiv 2404.05868).

    Formula: -(2 / beta) * log sigmoid(beta * (L_i - L_i^0)), with L_i the negative log-likelihood of the whole answer
    and L_i^0 the same under the model before unlearning. Its pull in L_i, -2 * sigmoid(-beta * (L_i - L_i^0)), fades
    once a row has become less likely by some 1 / beta nats.

    A negative weight pulls a row back with the same fading strength: bounded, and least for rows that went furthest.

    Args:
        beta: inverse temperature, per nat of a whole answer.

    Inputs: `outputs` of B rows; `reference.sum_nll` (B,). Returns shape (B,), nats.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([-4.0]), torch.tensor([0]), torch.tensor([1.0]))
        >>> NPO(beta=0.1)(out, ReferenceOutputs(sum_nll=torch.tensor([4.0])))  # (2 / 0.1) * log 2
        tensor([13.8629])
    """

    needs = frozenset({Need.NLL})
    unit = Unit.SUM

    def __init__(self, beta: float = 0.1):
        self.beta = beta

    @classmethod
    def from_config(cls, config: Any) -> "NPO":
        return cls(beta=config.npo_beta)

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        rise = outputs.sum_nll - reference.sum_nll  # (B,) how much less likely the answer has become
        return -2 / self.beta * logsigmoid(self.beta * rise)
