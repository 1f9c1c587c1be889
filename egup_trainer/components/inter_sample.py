"""Inter-sample entanglement: more effort for forget samples that are close to retained knowledge."""

from dataclasses import dataclass

import torch
from torch import Tensor

from egup_trainer.components.component import Component, ComponentOptions, Needs
from egup_trainer.components.feature_space import exp_over_mean
from egup_trainer.components.features import FeatureMemory
from egup_trainer.components.step import Step
from egup_trainer.errors import check_range
from egup_trainer.losses.base import ForgetLoss, Guidance
from egup_trainer.options import option

_LEAST_DEVIATION = 1e-3
"""Least standard deviation to divide by, so that samples that are all alike get equal weights instead of noise."""


def inter_sample_weights(
    entanglement: Tensor, cached: Tensor, temperature: float = 3.0, clip: tuple[float, float] = (0.2, 5.0)
) -> Tensor:
    """More effort for samples close to retained knowledge: w_i = exp(e'_i / tau) / mean over the cache of the same.

    e' is e standardized by mean and standard deviation of the cache. Before clipping, the weights average 1 over the
    cache, so the loss keeps its scale.

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
    return exp_over_mean(exponents, cached_exponents).clamp(*clip)


@dataclass
class InterSampleOptions(ComponentOptions):
    """Options of `InterSampleEntanglement`."""

    help_title = "EGUP"

    inter_entanglement: bool = option(
        False, "EGUP: more effort for forget samples that are close to retained knowledge."
    )
    inter_temperature: float = option(
        3.0, "Temperature of the inter-sample weights (tau), in standard deviations; above 0."
    )
    inter_clip_min: float = option(0.2, "Smallest inter-sample weight, from 0 to 1.")
    inter_clip_max: float = option(5.0, "Largest inter-sample weight, 1 or more.")

    def check_options(self) -> None:
        check_range(self, ("inter_temperature",), low=0, low_is_allowed=False)
        check_range(self, ("inter_clip_min",), low=0, high=1)
        check_range(self, ("inter_clip_max",), low=1)

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        clip = (self.inter_clip_min, self.inter_clip_max)
        return InterSampleEntanglement(self.inter_temperature, clip) if self.inter_entanglement else None


class InterSampleEntanglement(Component):
    """Weights each forget sample by `inter_sample_weights` of its entanglement with the retain bank (EGUP)."""

    name = "inter_entanglement"
    needs = Needs(features=True)
    acts_by = frozenset({Guidance.WEIGHTS})
    flag = "inter_entanglement"
    switch_off = "leave out --inter_entanglement"

    def __init__(self, temperature: float = 3.0, clip: tuple[float, float] = (0.2, 5.0)):
        self.temperature, self.clip = temperature, clip

    def weights(self, step: Step) -> Tensor:
        cached = self.run.component(FeatureMemory).cache.entanglement  # (N_f,)
        return inter_sample_weights(step.features.entanglement, cached, self.temperature, self.clip)
