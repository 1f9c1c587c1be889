"""How entangled forget samples are with retained knowledge and with what they were; and the weights that follow.

Pure functions on unit-length float32 features. What they read of other samples (the bank, the caches) is as it stood
at the start of the optimizer step, so weights do not depend on how the step is cut.
"""

from enum import Enum
from math import log

import torch
from torch import Tensor

_LEAST_DEVIATION = 1e-3
"""Least deviation of cosines to standardise by: samples that are all alike get equal weights, not noise."""


class DriftReference(str, Enum):
    """What a forget sample's drift is measured from."""

    INITIAL = "initial"
    PREVIOUS = "previous"


def inter_sample_entanglement(features: Tensor, bank: Tensor, neighbors: int = 8) -> Tensor:
    """e_i = mean of the k largest cos(phi(x_i), phi(x_j)) over the retain bank.

    Args:
        features: shape (B, k), unit length.
        bank: retain features, shape (M, k), unit length.
        neighbors: how many of the largest cosines count; all of the bank if it is smaller.

    Returns:
        Shape (B,), between -1 and 1.

    Example:
        >>> inter_sample_entanglement(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), neighbors=1)
        tensor([1.])
    """
    cosines = features @ bank.T  # (B, M)
    return cosines.topk(min(neighbors, bank.shape[0]), dim=1).values.mean(dim=1)


def inter_sample_weights(
    entanglement: Tensor, cached: Tensor, temperature: float = 3.0, clip: tuple[float, float] = (0.2, 5.0)
) -> Tensor:
    """More effort for samples close to retained knowledge: w_i = exp(e'_i / tau) / mean over the cache of the same.

    e' is e standardised by mean and standard deviation of the cache, so weights average 1 and keep the loss's scale.

    Args:
        entanglement: e_i of this batch, shape (B,).
        cached: last e of each forget sample, shape (N_f,).
        temperature: tau, in standard deviations.
        clip: least and largest weight.

    Returns:
        Shape (B,).

    Example:
        >>> inter_sample_weights(torch.tensor([0.5]), torch.tensor([0.5, 0.5]))
        tensor([1.])
    """
    if len(cached) < 2:
        return torch.ones_like(entanglement)  # nothing to weigh against
    mean, deviation = cached.mean(), cached.std(correction=0).clamp_min(_LEAST_DEVIATION)
    exponents, cached_exponents = ((e - mean) / deviation / temperature for e in (entanglement, cached))
    return _over_mean_exp(exponents, cached_exponents).clamp(*clip)


def drift(features: Tensor, reference: Tensor) -> Tensor:
    """d_i = 1 - cos(phi_t(x_i), phi_ref(x_i)): how far a sample has moved. Shapes (B, k) and (B, k) -> (B,), 0 to 2.

    Example:
        >>> drift(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
        tensor([2.])
    """
    return 1 - (features * reference).sum(dim=1)


def intra_sample_weights(drifts: Tensor, cached: Tensor, temperature: float = 0.5) -> Tensor:
    """Less effort for samples that have moved: w_i = exp(-d_i / tau) / mean over the cache of the same.

    Args:
        drifts: d_i of this batch, shape (B,).
        cached: last d of each forget sample, shape (N_f,).
        temperature: tau_drift, in units of 1 - cosine.

    Returns:
        Shape (B,).

    Example:
        >>> intra_sample_weights(torch.tensor([0.0]), torch.tensor([0.0, 0.0]))
        tensor([1.])
    """
    return _over_mean_exp(-drifts / temperature, -cached / temperature)


def _over_mean_exp(exponents: Tensor, cached: Tensor) -> Tensor:
    """exp(x) / mean(exp(cached)), safe from overflow."""
    return (exponents - cached.logsumexp(dim=0) + log(len(cached))).exp()
