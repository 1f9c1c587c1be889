"""Representation misdirection for unlearning."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from egup_trainer.errors import check_layer, check_range
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.forward import decoder_layers, layer_index
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.trainable import train_mlp_alone
from egup_trainer.options import OptionGroup, option


@dataclass
class RMUOptions(OptionGroup):
    """Options of `RMU`, whose layer `RetainFeatures` reads, too."""

    rmu_steering: float = option(2.0, "RMU: length of the target that hidden states are drawn to (c); above 0.")
    rmu_layer: float = option(
        0.22,
        "RMU and retain_loss=features: the layer whose hidden states are read, as a share of the depth between 0 and "
        "1, or as an index (-1 is the last layer).",
    )

    def check_options(self) -> None:
        check_range(self, ("rmu_steering",), low=0, low_is_allowed=False)
        check_layer(self, "rmu_layer")


class RMU(ForgetLoss):
    """Representation misdirection for unlearning (Li et al. 2024, arXiv 2403.03218).

    Formula: mean over answer tokens of |h_t - c u|^2 / d, with h_t the hidden states of one layer, d their size, and u
    a unit vector whose entries were sampled from [0, 1) before it was scaled, the same in the whole run. Each row has
    its own mean, so a value does not depend on the other rows.

    Without an adapter and `trainable_params_regex`, only the MLP output projections of that layer and of the two below
    it train.

    Args:
        steering: c, length of the target, in units of hidden states.
        seed: the seed of u.

    Requirements: a retain set; the reference model in memory for its default retain loss (the model without its
    adapter, or a frozen copy).

    Inputs: `outputs` with hidden states (N, d). Returns shape (B,), squared units of hidden states.

    Recommendations:
        - For broad topics, such as hazardous knowledge, rather than for single rows.

    Relations:
        - Its default retain loss is `RetainFeatures`, which keeps the hidden states of retain rows in place.
        - Negative efforts count as 0, because there is no limit to moving away from c u.

    Example:
        >>> out = AnswerOutputs(
        ...     torch.tensor([-1.0]), torch.tensor([0]), torch.tensor([1.0]), hidden=torch.zeros(1, 2)
        ... )
        >>> RMU(steering=4.0)(out, ReferenceOutputs())  # 4^2 / 2
        tensor([8.0000])
    """

    reads_hidden = True
    supports_negative_weight = False
    default_retain_loss = "features"
    config_fields: ClassVar[dict[str, str]] = {"steering": "rmu_steering", "seed": "seed"}

    def __init__(self, steering: float = 2.0, seed: int = 42):
        self.steering, self.seed = steering, seed

    def prepare_model(self, model: Any, config: Any) -> None:
        if not getattr(model, "peft_config", None) and config.trainable_params_regex is None:
            train_mlp_alone(model, layer_index(config.rmu_layer, len(decoder_layers(model)), "rmu_layer"))

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        hidden = required(outputs.hidden, "hidden")  # (N, d)
        target = self.steering * self.direction(hidden.shape[-1]).to(hidden)  # (d,)
        distances = (hidden - target).square().mean(dim=-1)  # (N,)
        return outputs.sum_per_row(distances) / outputs.num_tokens.clamp_min(1)

    def direction(self, size: int) -> Tensor:
        """u, shape (size,), on the CPU."""
        sampled = torch.rand(size, generator=torch.Generator().manual_seed(self.seed))
        return sampled / sampled.norm()
