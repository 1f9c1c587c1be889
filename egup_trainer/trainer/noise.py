"""Embedding noise for CLReg's second views."""

import numpy as np
import torch
from torch import Tensor


def view_noise(ids: Tensor, lengths: Tensor, width: int, size: int, alpha: float, seed: int, step: int) -> Tensor:
    """Uniform noise of NEFTune's size (Jain et al. 2023, arXiv 2310.05914): U(-1, 1) * alpha / sqrt(n * d).

    Each row's noise is drawn from (seed, step, id), so it does not depend on how a step is cut.

    Args:
        ids: sample ids, shape (P,). lengths: tokens n of each row, shape (P,).
        width: padded length T. size: embedding size d.
        alpha: size of the noise.

    Returns:
        Shape (P, T, d), on the CPU; 0 at padding.

    Example:
        >>> view_noise(torch.tensor([3]), torch.tensor([1]), width=2, size=4, alpha=1.0, seed=0, step=0)[0, 1]
        tensor([0., 0., 0., 0.])
    """
    noise = torch.zeros(len(ids), width, size)
    for place, (index, length) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True)):
        drawn = np.random.default_rng([seed, step, index + 1]).uniform(-1, 1, (length, size))  # + 1: a filler has -1
        noise[place, :length] = torch.from_numpy(drawn) * (alpha / (length * size) ** 0.5)
    return noise
