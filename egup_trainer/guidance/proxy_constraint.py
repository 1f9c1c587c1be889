"""The proxy constraint: what the model says of rows it never saw marks how far to forget, and no further."""

from enum import Enum

from torch import Tensor
from torch.nn.functional import softplus


class ProxyForm(str, Enum):
    """How the boundary acts on the loss."""

    EFFORT = "effort"
    """A factor on a sample's weight, without gradient."""
    PENALTY = "penalty"
    """A term of the loss."""


class ProxyMatch(str, Enum):
    """Which proxies make a sample's boundary."""

    MEAN = "mean"
    """All of them: one boundary for all samples."""
    NEAREST = "nearest"
    """Those nearest to the sample's features before unlearning."""


def mean_boundary(proxy_nll: Tensor, num_forget: int) -> Tensor:
    """b_i = mean l over all proxies, under the model before unlearning: (P,) -> (N_f,), nats per token."""
    return proxy_nll.mean().repeat(num_forget)


def nearest_boundary(proxy_nll: Tensor, proxy_features: Tensor, forget_features: Tensor, neighbors: int = 8) -> Tensor:
    """b_i = mean l over the proxies nearest to phi_0(x_i), under the model before unlearning.

    Args:
        proxy_nll: l of each proxy, shape (P,), nats per token.
        proxy_features: shape (P, k), unit length.
        forget_features: phi_0, shape (N_f, k), unit length.
        neighbors: how many proxies count; all if there are fewer.

    Returns:
        Shape (N_f,), nats per token.
    """
    cosines = forget_features @ proxy_features.T  # (N_f, P)
    nearest = cosines.topk(min(neighbors, len(proxy_nll)), dim=1).indices  # (N_f, neighbors)
    return proxy_nll[nearest].mean(dim=1)


def proxy_effort(nll: Tensor, boundary: Tensor, strength: float = 2.0, temperature: float = 0.2) -> Tensor:
    """Effort left: 1 - lambda * sigmoid((l_i - b_i) / T), without gradient.

    Full push far below the boundary, none at it (lambda = 2), a gentle pull back beyond it.

    Args:
        nll: l_i, shape (B,), nats per token.
        boundary: b_i, shape (B,), nats per token.
        strength: lambda.
        temperature: T, nats per token.

    Example:
        >>> import torch
        >>> proxy_effort(torch.tensor([5.0]), torch.tensor([5.0]))
        tensor([0.])
    """
    return 1 - strength * ((nll.detach() - boundary) / temperature).sigmoid()


def proxy_penalty(nll: Tensor, boundary: Tensor, strength: float = 2.0, temperature: float = 0.2) -> Tensor:
    """Penalty for going past the boundary: lambda * T * softplus((l_i - b_i) / T), shape (B,), nats per token.

    Its derivative in l_i is lambda * sigmoid((l_i - b_i) / T), so under gradient ascent it does what `proxy_effort`
    does. For a loss in L_i, multiply by n_i.

    Example:
        >>> import torch
        >>> proxy_penalty(torch.tensor([5.0]), torch.tensor([5.0]))  # 2 * 0.2 * log 2
        tensor([0.2773])
    """
    return strength * temperature * softplus((nll - boundary) / temperature)
