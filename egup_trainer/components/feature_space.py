"""The space of unit-length float32 features in which entanglement and contrast are measured."""

from dataclasses import dataclass
from enum import Enum
from math import log

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.nn.functional import normalize as unit


class InterMatch(str, Enum):
    """What the entanglement of a forget sample is measured with."""

    NEAREST = "nearest"
    """The retain samples nearest to it, by centred features."""
    CENTROID = "centroid"
    """The mean of the retain samples before unlearning, by features that are not centred."""


def random_projection(size: int, cache_dim: int | None, seed: int) -> Tensor | None:
    """P, shape (d, k) = (`size`, `cache_dim`), or None if `cache_dim` is.

    Its entries are normal with variance 1 / k, sampled with `seed`, so that it keeps lengths and angles in expectation.

    Example:
        >>> random_projection(size=8, cache_dim=2, seed=0).shape
        torch.Size([8, 2])
    """
    if cache_dim is None:
        return None
    return torch.randn((size, cache_dim), generator=torch.Generator().manual_seed(seed)) / cache_dim**0.5


@dataclass(frozen=True)
class FeatureSpace:
    """Maps pooled hidden states to unit vectors phi.

    Formula: phi(h) = normalize(h P - c), with P a fixed random projection (or the identity) and c the mean of the
    projected retain features before unlearning. Hidden states of language models share one strong common direction:
    without centering, all cosines are near 1. The map is linear up to the normalization, so gradients pass.

    Args:
        center: c, shape (k,), float32.
        projection: P, shape (d, k), float32, or None for k = d.
    """

    center: Tensor
    projection: Tensor | None = None

    @classmethod
    def fit(cls, retain: Tensor, projection: Tensor | None = None) -> "FeatureSpace":
        """The space for retain features read before unlearning and projected already, shape (M, k)."""
        return cls(retain.mean(dim=0), None if projection is None else projection.to(retain.device))

    def __call__(self, features: Tensor) -> Tensor:
        """Pooled hidden states (B, d) -> phi (B, k), float32."""
        return self.normalize(self.project(features))

    def project(self, features: Tensor) -> Tensor:
        """h P of pooled hidden states: (B, d) -> (B, k)."""
        with torch.autocast(features.device.type, enabled=False):
            return features if self.projection is None else features @ self.projection

    def normalize(self, projected: Tensor) -> Tensor:
        """phi of features that are projected already: (B, k) -> (B, k)."""
        return unit(projected - self.center, dim=-1)

    def entanglement(self, projected: Tensor, bank: Tensor, neighbors: int | None) -> Tensor:
        """e_i of features that are projected already: (B, k) -> (B,).

        Args:
            projected: h P, shape (B, k).
            bank: phi of retain samples, shape (M, k).
            neighbors: how many of them count, as in `inter_sample_entanglement`, or None for `centroid_entanglement`.
        """
        if neighbors is None:
            return centroid_entanglement(projected, self.center)
        return inter_sample_entanglement(self.normalize(projected), bank, neighbors)

    def to(self, device: torch.device) -> "FeatureSpace":
        """The same space on another device."""
        return FeatureSpace(self.center.to(device), None if self.projection is None else self.projection.to(device))


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


def centroid_entanglement(projected: Tensor, centroid: Tensor) -> Tensor:
    """e_i = cos(h_i P, c), with c the mean of the retain samples' h_j P before unlearning; neither is centred.

    Args:
        projected: h P, shape (B, k), of any length.
        centroid: c, shape (k,), which is the centre of `FeatureSpace`.

    Returns:
        Shape (B,), between -1 and 1.

    Example:
        >>> centroid_entanglement(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([3.0, 0.0]))
        tensor([1., 0.])
    """
    return cosine_similarity(projected, centroid[None], dim=1)


def drift(features: Tensor, reference: Tensor) -> Tensor:
    """d_i = 1 - cos(phi_t(x_i), phi_ref(x_i)): how far a sample has moved. Shapes (B, k) and (B, k) -> (B,), 0 to 2.

    Example:
        >>> drift(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
        tensor([2.])
    """
    return 1 - (features * reference).sum(dim=1)


def exp_over_mean(exponents: Tensor, cached: Tensor) -> Tensor:
    """exp(x) / mean(exp(cached)), computed so that it cannot overflow: (B,), (N_f,) -> (B,)."""
    return (exponents - cached.logsumexp(dim=0) + log(len(cached))).exp()
