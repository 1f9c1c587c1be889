"""Gradient ascent and gradient difference."""

from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs


class GradientDifference(ForgetLoss):
    """Gradient ascent on forget rows, descent on retain rows (Liu et al. 2022, arXiv 2203.12817).

    Formula: -l_i, with l_i the mean negative log-likelihood per answer token. Unbounded below: without a boundary it
    goes on forever.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([-1.0, -3.0]), torch.tensor([0, 0]), torch.tensor([2.0]))
        >>> GradientDifference()(out, ReferenceOutputs())
        tensor([-2.])
    """

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return -outputs.mean_nll


class GradientAscent(GradientDifference):
    """Gradient ascent on forget rows alone (Jang et al. 2022, arXiv 2210.01504): `GradientDifference` without a retain
    loss unless one is asked for.

    Formula: -l_i, shape (B,), nats per token.
    """

    default_retain_loss = "none"
