"""The space in which entanglement and contrast are measured."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


def random_projection(size: int, cache_dim: int | None, seed: int) -> Tensor | None:
    """P, shape (d, k) = (`size`, `cache_dim`), or None if `cache_dim` is.

    Its entries are normal with variance 1 / k, drawn from `seed`, so that it keeps lengths and angles in expectation.

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
    without the centring all cosines are near 1. The map is linear up to the normalisation, so gradients pass.

    Args:
        center: c, shape (k,), float32.
        projection: P, shape (d, k), float32, or None for k = d.
    """

    center: Tensor
    projection: Tensor | None = None

    @classmethod
    def fit(cls, retain: Tensor, projection: Tensor | None = None) -> "FeatureSpace":
        """The space for retain features taken before unlearning, projected already, shape (M, k)."""
        return cls(retain.mean(dim=0), None if projection is None else projection.to(retain.device))

    def __call__(self, features: Tensor) -> Tensor:
        """Pooled hidden states (B, d) -> phi (B, k), float32."""
        with torch.autocast(features.device.type, enabled=False):
            return self.place(self.project(features))

    def project(self, features: Tensor) -> Tensor:
        """h P of pooled hidden states: (B, d) -> (B, k)."""
        return features if self.projection is None else features @ self.projection

    def place(self, projected: Tensor) -> Tensor:
        """phi of what is projected already: (B, k) -> (B, k)."""
        return normalize(projected - self.center, dim=-1)

    def to(self, device: torch.device) -> "FeatureSpace":
        """The same space on another device."""
        return FeatureSpace(self.center.to(device), None if self.projection is None else self.projection.to(device))
