"""Self-distillation with adjusted logits."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from egup_trainer.errors import check_range
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.reference import Need
from egup_trainer.options import OptionGroup, option


@dataclass
class UNDIALOptions(OptionGroup):
    """Options of `UNDIAL`."""

    undial_strength: float = option(10.0, "UNDIAL: by how much the answer's logit is lowered, nats; above 0.")

    def check_options(self) -> None:
        check_range(self, ("undial_strength",), low=0, low_is_allowed=False)


class UNDIAL(ForgetLoss):
    """Self-distillation with adjusted logits (Dong et al. 2024, arXiv 2402.10052).

    Formula: mean over answer tokens of the cross-entropy of p to q = softmax(logits before unlearning, lowered by
    `strength` at the answer's token). Prompt and padding do not count.

    Args:
        strength: by how much the answer's logit is lowered, nats.

    Requirements: a retain set; the reference model in memory (the model without its adapter, or a frozen copy).

    Inputs: `outputs` with logits (N, V) and token ids (N,), `reference.logits` (N, V). Returns shape (B,), nats per
    token.

    Recommendations:
        - When training must not diverge even if it is long, because the target is fixed.

    Relations:
        - `CEU` uses the model itself as the teacher, and no reference model.
        - Negative efforts count as 0, because there is no limit to moving away from q.

    Example:
        >>> out = AnswerOutputs(
        ...     torch.log(torch.tensor([0.5])), torch.tensor([0]), torch.tensor([1.0]),
        ...     logits=torch.log(torch.tensor([[0.5, 0.5]])), token_ids=torch.tensor([0]),
        ... )
        >>> UNDIAL(strength=10.0)(out, ReferenceOutputs(logits=torch.zeros(1, 2)))  # p is even: log 2 to any q
        tensor([0.6931])
    """

    needs = frozenset({Need.LOGITS})
    supports_negative_weight = False
    reads_logits = True
    config_fields: ClassVar[dict[str, str]] = {"strength": "undial_strength"}

    def __init__(self, strength: float = 10.0):
        self.strength = strength

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        logits, ids = required(reference.logits, "logits"), required(outputs.token_ids, "token_ids")
        return cross_entropy(outputs, without_answer(logits, ids, self.strength))


def without_answer(logits: Tensor, token_ids: Tensor, strength: float) -> Tensor:
    """softmax(logits - strength at the answer's token): (N, V), (N,) -> (N, V)."""
    lowered = logits.scatter_add(1, token_ids[:, None], torch.full_like(logits[:, :1], -strength))
    return lowered.softmax(dim=-1)


def cross_entropy(outputs: AnswerOutputs, target: Tensor) -> Tensor:
    """Mean over each row's answer tokens of -sum_v q_v log p_v: (N, V) -> (B,)."""
    losses = -(target * required(outputs.logits, "logits").log_softmax(dim=-1)).sum(dim=-1)  # (N,)
    return outputs.sum_per_row(losses) / outputs.num_tokens.clamp_min(1)
