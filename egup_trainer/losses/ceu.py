"""Cross-entropy unlearning."""

from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.losses.undial import cross_entropy, without_answer
from egup_trainer.modeling.outputs import AnswerOutputs, required


class CEU(ForgetLoss):
    """Cross-entropy unlearning (Yang 2025, arXiv 2503.01224).

    Formula: mean over answer tokens of the cross-entropy of p to q, with q the model's own distribution at that
    position as if the answer's token did not exist (its logit is minus infinity), without gradient. The gradient in
    the logits is p - q, which is bounded: p_y at the answer's token.

    Requirements: a retain set.

    Inputs: `outputs` with logits (N, V) and token ids (N,). Returns shape (B,), nats per token.

    Recommendations:
        - When you want a bounded gradient without a reference model.

    Relations:
        - `UNDIAL` uses the reference model as the teacher.
        - Negative efforts count as 0, because there is no limit to moving away from q.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(
        ...     torch.log(torch.tensor([0.5])), torch.tensor([0]), torch.tensor([1.0]),
        ...     logits=torch.log(torch.tensor([[0.5, 0.25, 0.25]])), token_ids=torch.tensor([0]),
        ... )
        >>> CEU()(out, ReferenceOutputs())  # q = (0, 1/2, 1/2): log 4
        tensor([1.3863])
    """

    supports_negative_weight = False
    reads_logits = True

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        logits, ids = required(outputs.logits, "logits").detach(), required(outputs.token_ids, "token_ids")
        target = without_answer(logits, ids, strength=float("inf"))  # (N, V)
        return cross_entropy(outputs, target)
