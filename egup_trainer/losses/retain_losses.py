"""Retain losses, which keep the model as it is on the rows of the retain set."""

from torch import Tensor
from torch.nn.functional import kl_div

from egup_trainer.losses.base import ReferenceOutputs, RetainLoss
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.reference import Need
from egup_trainer.modeling.top_k_logps import coarse_logps


class RetainNLL(RetainLoss):
    """Negative log-likelihood of the retain answers: L_j, shape (B,), nats per answer.

    The retain loss of gradient difference (Liu et al. 2022, arXiv 2203.12817).

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([-1.0, -3.0]), torch.tensor([0, 0]), torch.tensor([2.0]))
        >>> RetainNLL()(out, ReferenceOutputs())
        tensor([4.])
    """

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return outputs.sum_nll


class RetainKL(RetainLoss):
    """Divergence from the model before unlearning: sum over answer tokens of KL(p_before || p), shape (B,), nats.

    Prompt and padding positions do not count. With the logits of the model before unlearning, which take a second
    forward pass without gradient over the retain rows, the divergence is exact. With its k most likely tokens it is
    that of k + 1 classes (ours), the last of them all other tokens together: never more than the exact one.

    Inputs: `outputs.logits` (N, V); `reference.top_k_logps` of N tokens, or `reference.logits` (N, V).
    """

    needs = frozenset({Need.TOP_K})

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        logits = required(outputs.logits, "logits")
        if reference.top_k_logps is not None:
            before = reference.top_k_logps.logps  # (N, k + 1)
            now = coarse_logps(logits, reference.top_k_logps.ids)  # (N, k + 1)
        else:
            before = required(reference.logits, "logits").log_softmax(-1)  # (N, V)
            now = logits.log_softmax(-1)  # (N, V)
        return outputs.sum_per_row(kl_div(now, before, reduction="none", log_target=True).sum(-1))


class RetainFeatures(RetainLoss):
    """Holds hidden states where they were: sum over answer tokens of |h_t - h_t^0|^2 / d, shape (B,), as RMU does.

    h_t are the hidden states of the layer `rmu_layer` at the answer tokens, h_t^0 the same before unlearning, d their
    size (Li et al. 2024, arXiv 2403.03218). Needs a second forward pass without gradient over the retain rows.

    Inputs: `outputs.hidden` (N, d); `reference.hidden` (N, d).

    Example:
        >>> import torch
        >>> out = AnswerOutputs(
        ...     torch.tensor([-1.0]), torch.tensor([0]), torch.tensor([1.0]), hidden=torch.tensor([[3.0, 4.0]])
        ... )
        >>> RetainFeatures()(out, ReferenceOutputs(hidden=torch.zeros(1, 2)))  # (9 + 16) / 2
        tensor([12.5000])
    """

    needs = frozenset({Need.HIDDEN})

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        moved = required(outputs.hidden, "hidden") - required(reference.hidden, "hidden")  # (N, d)
        return outputs.sum_per_row(moved.square().mean(dim=-1))
