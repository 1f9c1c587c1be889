"""CLReg: the contrastive representation regulariser (arXiv 2601.22028)."""

from enum import Enum

import torch
from torch import Tensor


class ClregPositives(str, Enum):
    """What a forget anchor is drawn to."""

    FORGET = "forget"
    VIEWS = "views"
    PARAPHRASE = "paraphrase"


def contrastive_loss(
    anchors: Tensor, positives: Tensor, is_positive: Tensor, negatives: Tensor, temperature: float = 0.2
) -> Tensor:
    """Pushes forget features away from retain features and towards each other.

    Formula, for anchor i with positives P_i and negatives N:
    mean over p in P_i of -log(exp(cos(i, p) / tau) / (sum over q in P_i and N of exp(cos(i, q) / tau))).

    Args:
        anchors: forget features of this step with gradient, unit length, shape (B, k).
        positives: features that anchors are drawn to, without gradient, unit length, shape (P, k).
        is_positive: which of them belong to which anchor, bool, shape (B, P).
        negatives: retain features without gradient, unit length, shape (M, k).
        temperature: tau, in cosine units.

    Returns:
        Values of shape (B,); 0 for an anchor without positives.

    Example:
        >>> one = torch.tensor([[1.0, 0.0]])
        >>> contrastive_loss(one, one, torch.tensor([[True]]), -one, temperature=1.0)  # log(1 + exp(-2))
        tensor([0.1269])
    """
    to_positives = anchors @ positives.detach().T / temperature  # (B, P)
    to_negatives = anchors @ negatives.detach().T / temperature  # (B, M)
    all_logits = torch.cat([to_positives.masked_fill(~is_positive, -torch.inf), to_negatives], dim=1)  # (B, P + M)
    losses = all_logits.logsumexp(dim=1, keepdim=True) - to_positives  # (B, P)
    counts = is_positive.sum(dim=1)  # (B,)
    return torch.where(is_positive, losses, 0).sum(dim=1) / counts.clamp_min(1)


def retain_anchor_loss(features: Tensor, initial: Tensor) -> Tensor:
    """Holds retain features where they were before unlearning: 1 - cos(phi_t(x_j), phi_0(x_j)).

    Args:
        features: retain features of this step with gradient, unit length, shape (B, k).
        initial: the same rows' features before unlearning, unit length, shape (B, k).

    Returns:
        Values of shape (B,), between 0 and 2.

    Example:
        >>> retain_anchor_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([1.])
    """
    return 1 - (features * initial.detach()).sum(dim=1)
