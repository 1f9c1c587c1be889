"""Objectives that draw the model to a distribution without the answer: CE-U and UNDIAL."""

from typing import Any

import torch
from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.reference import Need


class CEU(ForgetLoss):
    """Cross-entropy unlearning (Yang 2025, arXiv 2503.01224).

    Formula: mean over answer tokens of the cross-entropy of p to q, with q the model's own distribution at that place
    as if the answer's token did not exist (its logit is minus infinity), without gradient. The gradient in the logits
    is p - q, which is bounded: p_y at the answer's token.

    A negative weight has no sound meaning (away from q there is no end), so that efforts below 0 count as 0.

    Inputs: `outputs` with logits (N, V) and token ids (N,). Returns shape (B,), nats per token.

    Example:
        >>> out = AnswerOutputs(
        ...     torch.log(torch.tensor([0.5])), torch.tensor([0]), torch.tensor([1.0]),
        ...     logits=torch.log(torch.tensor([[0.5, 0.25, 0.25]])), token_ids=torch.tensor([0]),
        ... )
        >>> CEU()(out, ReferenceOutputs())  # q = (0, 1/2, 1/2): log 4
        tensor([1.3863])
    """

    pulls_back = False
    reads_logits = True

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        logits, token_ids = required(outputs.logits, "logits"), required(outputs.token_ids, "token_ids")
        target = without_answer(logits.detach(), token_ids, strength=float("inf"))  # (N, V)
        return cross_entropy(outputs, target)


class UNDIAL(ForgetLoss):
    """Self-distillation with adjusted logits (Dong et al. 2024, arXiv 2402.10052).

    Formula: mean over answer tokens of the cross-entropy of p to q = softmax(logits before unlearning, lowered by
    `strength` at the answer's token). Prompt and padding do not count.

    A negative weight has no sound meaning (away from q there is no end), so that efforts below 0 count as 0.

    Args:
        strength: by how much the answer's logit is lowered, nats.

    Inputs: `outputs` with logits (N, V) and token ids (N,), `reference.logits` (N, V). Returns shape (B,), nats per
    token.

    Example:
        >>> out = AnswerOutputs(
        ...     torch.log(torch.tensor([0.5])), torch.tensor([0]), torch.tensor([1.0]),
        ...     logits=torch.log(torch.tensor([[0.5, 0.5]])), token_ids=torch.tensor([0]),
        ... )
        >>> UNDIAL(strength=10.0)(out, ReferenceOutputs(logits=torch.zeros(1, 2)))  # p is even: log 2 to any q
        tensor([0.6931])
    """

    needs = frozenset({Need.LOGITS})
    pulls_back = False
    reads_logits = True

    def __init__(self, strength: float = 10.0):
        self.strength = strength

    @classmethod
    def from_config(cls, config: Any) -> "UNDIAL":
        return cls(strength=config.undial_strength)

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        logits, token_ids = required(reference.logits, "logits"), required(outputs.token_ids, "token_ids")
        return cross_entropy(outputs, without_answer(logits, token_ids, self.strength))


def without_answer(logits: Tensor, token_ids: Tensor, strength: float) -> Tensor:
    """softmax(logits - strength at the answer's token): (N, V), (N,) -> (N, V)."""
    lowered = logits.scatter_add(1, token_ids[:, None], torch.full_like(logits[:, :1], -strength))
    return lowered.softmax(dim=-1)


def cross_entropy(outputs: AnswerOutputs, target: Tensor) -> Tensor:
    """Mean over each row's answer tokens of -sum_v q_v log p_v: (N, V) -> (B,)."""
    losses = -(target * required(outputs.logits, "logits").log_softmax(dim=-1)).sum(dim=-1)  # (N,)
    return outputs.sum_per_row(losses) / outputs.num_tokens.clamp_min(1)
