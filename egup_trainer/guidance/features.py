"""The space in which entanglement and contrast are measured."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


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
    def fit(cls, retain_features: Tensor, cache_dim: int | None, seed: int) -> "FeatureSpace":
        """The space for retain features (M, d) taken before unlearning.

        Args:
            cache_dim: k, or None for no projection. The projection's entries are normal with variance 1 / k, drawn from
                `seed`, so that it keeps lengths and angles in expectation.
            seed: seed of the projection.
        """
        projection = None
        if cache_dim is not None:
            generator = torch.Generator().manual_seed(seed)
            shape = (retain_features.shape[1], cache_dim)
            projection = torch.randn(shape, generator=generator).to(retain_features.device) / cache_dim**0.5
        projected = retain_features if projection is None else retain_features @ projection
        return cls(projected.mean(dim=0), projection)

    def __call__(self, features: Tensor) -> Tensor:
        """Pooled hidden states (B, d) -> phi (B, k), float32."""
        with torch.autocast(features.device.type, enabled=False):
            projected = features if self.projection is None else features @ self.projection
            return normalize(projected - self.center, dim=-1)

    def to(self, device: torch.device) -> "FeatureSpace":
        """The same space on another device."""
        return FeatureSpace(self.center.to(device), None if self.projection is None else self.projection.to(device))
