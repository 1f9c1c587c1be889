"""Intra-sample entanglement: less effort for forget samples whose features have moved already."""

from dataclasses import dataclass

from torch import Tensor

from egup_trainer.components.component import Component, ComponentOptions, Needs
from egup_trainer.components.feature_space import exp_over_mean
from egup_trainer.components.features import FeatureMemory
from egup_trainer.components.step import Step
from egup_trainer.errors import check_range
from egup_trainer.losses.base import ForgetLoss, Guidance
from egup_trainer.options import option


def intra_sample_weights(drifts: Tensor, cached: Tensor, temperature: float = 0.5) -> Tensor:
    """Less effort for samples that have moved: w_i = exp(-d_i / tau) / mean over the cache of the same.

    Args:
        drifts: d_i of this batch, shape (B,).
        cached: last d of each forget sample, shape (N_f,).
        temperature: tau_drift, in units of 1 - cosine.

    Returns:
        Shape (B,).

    Example:
        >>> import torch
        >>> intra_sample_weights(torch.tensor([0.0]), torch.tensor([0.0, 0.0]))
        tensor([1.])
    """
    return exp_over_mean(-drifts / temperature, -cached / temperature)


@dataclass
class IntraSampleOptions(ComponentOptions):
    """Options of `IntraSampleEntanglement`."""

    help_title = "EGUP"

    intra_entanglement: bool = option(False, "EGUP: less effort for forget samples whose features have moved.")
    intra_temperature: float = option(0.5, "Temperature of the drift weights (tau_drift), in 1 - cosine; above 0.")

    def check_options(self) -> None:
        check_range(self, ("intra_temperature",), low=0, low_is_allowed=False)

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        return IntraSampleEntanglement(self.intra_temperature) if self.intra_entanglement else None


class IntraSampleEntanglement(Component):
    """Weights each forget sample by `intra_sample_weights` of how far its features have drifted (EGUP)."""

    name = "intra_entanglement"
    needs = Needs(features=True)
    acts_by = frozenset({Guidance.WEIGHTS})
    flag = "intra_entanglement"
    switch_off = "leave out --intra_entanglement"

    def __init__(self, temperature: float = 0.5):
        self.temperature = temperature

    def weights(self, step: Step) -> Tensor:
        cached = self.run.component(FeatureMemory).cache.drift  # (N_f,)
        return intra_sample_weights(step.features.drift, cached, self.temperature)
