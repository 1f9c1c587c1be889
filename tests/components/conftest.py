"""Unit vectors in the plane, and a cache made of them."""

from math import cos, sin

import pytest
import torch

from egup_trainer.components.embedding_cache import EmbeddingCache
from egup_trainer.components.feature_space import FeatureSpace


@pytest.fixture
def units():
    """units(0.0, 0.5): unit vectors at these angles."""

    def make(*angles: float) -> torch.Tensor:
        return torch.tensor([[cos(angle), sin(angle)] for angle in angles])

    return make


@pytest.fixture
def make_cache(units):
    """make_cache(forget=[angles], retain=[angles], ids=[...]): a cache around the origin, without projection."""

    def make(forget=(0.0, 1.0, 2.0), retain=(0.5, 1.5), ids=(3, 1), num_retain=5, neighbors=1, bank_size=3):
        return EmbeddingCache.build(
            2 * units(*forget),  # lengths do not matter
            3 * units(*retain),
            torch.tensor(ids),
            num_retain,
            space=FeatureSpace(torch.zeros(2)),
            neighbors=neighbors,
            bank_size=bank_size,
        )

    return make
