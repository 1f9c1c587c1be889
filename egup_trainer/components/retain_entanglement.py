"""Entanglement on the retain side: more weight for retain samples that are close to what the step forgets."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from egup_trainer.components.component import Component, Needs
from egup_trainer.components.feature_space import inter_sample_entanglement
from egup_trainer.components.features import FeatureMemory
from egup_trainer.components.inter_sample import InterSampleOptions, inter_sample_weights
from egup_trainer.components.step import Step
from egup_trainer.errors import ConfigError
from egup_trainer.losses.base import ForgetLoss, Guidance
from egup_trainer.modeling.outputs import required
from egup_trainer.options import option


def retain_entanglement_weights(
    features: Tensor,
    bank: Tensor,
    forget: Tensor,
    neighbors: int = 8,
    temperature: float = 3.0,
    clip: tuple[float, float] = (0.2, 5.0),
) -> Tensor:
    """More weight for retain samples close to the forget samples: v_j = exp(r'_j / tau) / mean over the bank of same.

    r_j is the mean of the k largest cosines of phi(x_j) with the features of the step's forget samples; r' is
    standardized by mean and standard deviation over the bank. Before clipping, the weights average 1 over the bank.

    Args:
        features: phi of the retain samples of this batch, unit length, shape (C, k).
        bank: the retain bank, unit length, shape (M, k).
        forget: last phi of the forget samples of the step, unit length, shape (B, k).
        neighbors: how many of the largest cosines count; all of the forget samples if there are fewer.
        temperature: tau, in standard deviations.
        clip: least and largest weight.

    Returns:
        Shape (C,).

    Example:
        >>> import torch
        >>> plane = torch.eye(2)
        >>> retain_entanglement_weights(plane, plane, plane[:1], clip=(0.0, 1e9))  # e^(1/3), e^(-1/3), over the mean
        tensor([1.3215, 0.6785])
    """
    entanglement, cached = (inter_sample_entanglement(each, forget, neighbors) for each in (features, bank))
    return inter_sample_weights(entanglement, cached, temperature, clip)


@dataclass
class RetainEntanglementOptions(InterSampleOptions):
    """Options of `RetainEntanglement`, which shares temperature and clipping with `InterSampleEntanglement`."""

    retain_entanglement: bool = option(
        False,
        "More weight for the retain samples of a step that are close to its forget samples, by inter_temperature, "
        "inter_clip_min, inter_clip_max and inter_neighbors.",
    )

    def check_options(self) -> None:
        config: Any = self  # the whole configuration, of which these options are a part
        if self.retain_entanglement and (config.retain_loss == "none" or not config.retain_weight):
            raise ConfigError(
                got=f"retain_entanglement with retain_loss={config.retain_loss}, retain_weight={config.retain_weight}",
                expected="a retain objective, whose samples it weighs",
                fix="set --retain_loss and --retain_weight, or leave out --retain_entanglement",
            )

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        if not self.retain_entanglement:
            return None
        config: Any = self  # as above
        clip = (self.inter_clip_min, self.inter_clip_max)
        return RetainEntanglement(config.inter_neighbors, self.inter_temperature, clip)


class RetainEntanglement(Component):
    """Weights each retain sample by `retain_entanglement_weights`: forgetting harms those nearest to it first.

    Args:
        neighbors: how many of the nearest forget samples of the step count.
        temperature: tau, in standard deviations.
        clip: smallest and largest weight.
    """

    name = "retain_entanglement"
    needs = Needs(features=True, retain_rows=True)
    acts_by = frozenset({Guidance.TERMS})
    flag = "retain_entanglement"
    switch_off = "leave out --retain_entanglement"

    def __init__(self, neighbors: int = 8, temperature: float = 3.0, clip: tuple[float, float] = (0.2, 5.0)):
        self.neighbors, self.temperature, self.clip = neighbors, temperature, clip

    def retain_weights(self, step: Step) -> Tensor:
        cache = self.run.component(FeatureMemory).cache
        return retain_entanglement_weights(
            required(step.features.retain, "retain features").detach(),
            cache.bank,
            cache.latest[step.counts.forget_ids],  # of the whole step, however it is divided
            self.neighbors,
            self.temperature,
            self.clip,
        )
