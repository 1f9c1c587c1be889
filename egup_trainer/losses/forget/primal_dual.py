"""Primal-dual unlearning: flat logits on forget rows under a constraint on retain rows."""

from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs, required


class PDU(ForgetLoss):
    """Logit-margin flattening of primal-dual unlearning (Entesari et al. 2025, arXiv 2506.05314).

    Formula: mean over answer tokens of (max_v z_v - mean_v z_v)^2, z the logits there. It is 0 where all tokens are
    equally likely. The retain loss is a constraint beside it: its weight is learned by dual ascent, outside.

    A negative weight has no sound meaning (a margin may grow for ever), so that efforts below 0 count as 0.

    Inputs: `outputs` with logits (N, V). Returns shape (B,), squared units of logits.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(
        ...     torch.tensor([-1.0]), torch.tensor([0]), torch.tensor([1.0]), logits=torch.tensor([[3.0, 0.0, 0.0]])
        ... )
        >>> PDU()(out, ReferenceOutputs())  # (3 - 1)^2
        tensor([4.])
    """

    reads_logits = True
    pulls_back = False
    constrains_retain = True

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        logits = required(outputs.logits, "logits")
        margins = logits.amax(dim=-1) - logits.mean(dim=-1)  # (N,)
        return outputs.sum_per_row(margins.square()) / outputs.num_tokens.clamp_min(1)
