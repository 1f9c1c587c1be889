"""Gradient difference."""

from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs


class GradientDifference(ForgetLoss):
    """Gradient ascent on forget rows, descent on retain rows (Liu et al. 2022, arXiv 2203.12817).

    Formula: -l_i, with l_i the mean negative log-likelihood per answer token. It is unbounded below: without a
    boundary it never comes to rest.

    Requirements: a retain set.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Recommendations:
        - Keep the proxy constraint on: it stops each row where rows that the model never saw are.
        - The simplest objective to begin with when proxy rows are at hand.

    Relations:
        - `GradientAscent` is the same loss without a retain loss.
        - `WGA` and `SatImp` weigh its tokens, so that it comes to rest by itself.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([-1.0, -3.0]), torch.tensor([0, 0]), torch.tensor([2.0]))
        >>> GradientDifference()(out, ReferenceOutputs())
        tensor([-2.])
    """

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return -outputs.mean_nll
