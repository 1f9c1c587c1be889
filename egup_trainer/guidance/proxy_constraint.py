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


class ProxyReference(str, Enum):
    """Which model is asked about the proxies."""

    INITIAL = "initial"
    """The model before unlearning."""
    CURRENT = "current"
    """The model at the start of each epoch."""


def nearest_proxies(proxy_features: Tensor, forget_features: Tensor, neighbors: int = 4) -> Tensor:
    """The proxies that make each forget sample's boundary: those nearest to phi_0(x_i).

    Args:
        proxy_features: shape (P, k), unit length.
        forget_features: phi_0, shape (N_f, k), unit length.
        neighbors: how many proxies count; all if there are fewer.

    Returns:
        Their places, shape (N_f, neighbors), int64.
    """
    cosines = forget_features @ proxy_features.T  # (N_f, P)
    return cosines.topk(min(neighbors, len(proxy_features)), dim=1).indices


def proxy_boundary(proxy_nll: Tensor, proxies: Tensor) -> Tensor:
    """b_i = mean l over a forget sample's proxies: (P,), (N_f, n) -> (N_f,), nats per token.

    Example:
        >>> import torch
        >>> proxy_boundary(torch.tensor([4.0, 6.0, 8.0]), torch.tensor([[0, 1], [1, 2]]))
        tensor([5., 7.])
    """
    return proxy_nll[proxies].mean(dim=1)


def proxy_effort(nll: Tensor, boundary: Tensor, strength: float | Tensor = 2.0, temperature: float = 0.2) -> Tensor:
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


def proxy_penalty(nll: Tensor, boundary: Tensor, strength: float | Tensor = 2.0, temperature: float = 0.2) -> Tensor:
    """Penalty for going past the boundary: lambda * T * softplus((l_i - b_i) / T), shape (B,), nats per token.

    Its derivative in l_i is lambda * sigmoid((l_i - b_i) / T), so under gradient ascent it does what `proxy_effort`
    does. For a loss in L_i, multiply by n_i.

    Example:
        >>> import torch
        >>> proxy_penalty(torch.tensor([5.0]), torch.tensor([5.0]))  # 2 * 0.2 * log 2
        tensor([0.2773])
    """
    return strength * temperature * softplus((nll - boundary) / temperature)
