"""Representation misdirection for unlearning."""

from typing import Any

import torch
from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs, required


class RMU(ForgetLoss):
    """Representation misdirection for unlearning (Li et al. 2024, arXiv 2403.03218).

    Formula: mean over answer tokens of |h_t - c u|^2 / d, with h_t the hidden states of one layer, d their size, and u
    a unit vector whose entries were drawn from [0, 1) before it was scaled, the same in the whole run. Each row has its
    own mean, so a value is that of the row alone.

    A negative weight has no sound meaning (away from c u there is no end), so that efforts below 0 count as 0.

    Args:
        steering: c, length of the target, in units of hidden states.
        seed: of u.

    Inputs: `outputs` with hidden states (N, d). Returns shape (B,), squared units of hidden states.

    Example:
        >>> out = AnswerOutputs(
        ...     torch.tensor([-1.0]), torch.tensor([0]), torch.tensor([1.0]), hidden=torch.zeros(1, 2)
        ... )
        >>> RMU(steering=4.0)(out, ReferenceOutputs())  # 4^2 / 2
        tensor([8.0000])
    """

    reads_hidden = True
    pulls_back = False
    trains_mlp_alone = True
    default_retain_loss = "features"

    def __init__(self, steering: float = 2.0, seed: int = 42):
        self.steering, self.seed = steering, seed

    @classmethod
    def from_config(cls, config: Any) -> "RMU":
        return cls(steering=config.rmu_steering, seed=config.seed)

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        hidden = required(outputs.hidden, "hidden")
        target = self.steering * self.direction(hidden.shape[-1]).to(hidden)  # (d,)
        distances = (hidden - target).square().mean(dim=-1)  # (N,)
        return outputs.sum_per_row(distances) / outputs.num_tokens.clamp_min(1)

    def direction(self, size: int) -> Tensor:
        """u, shape (size,), on the CPU."""
        drawn = torch.rand(size, generator=torch.Generator().manual_seed(self.seed))
        return drawn / drawn.norm()
