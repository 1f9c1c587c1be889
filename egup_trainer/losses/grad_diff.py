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
        - Use it with the proxy constraint, which stops each row where rows are that the model has never seen.
        - It is the simplest objective to begin with if you have proxy rows.

    Relations:
        - `GradientAscent` is the same loss without a retain loss.
        - `WGA` and `SatImp` weight its tokens, so that it stops by itself.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([-1.0, -3.0]), torch.tensor([0, 0]), torch.tensor([2.0]))
        >>> GradientDifference()(out, ReferenceOutputs())
        tensor([-2.])
    """

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return -outputs.mean_nll
