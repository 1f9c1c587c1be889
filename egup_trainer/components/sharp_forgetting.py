"""Sharpness-aware forgetting: each step is taken from weights nearby at which the forget rows are known best."""

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from egup_trainer.components.auto import EFFORTS, Auto
from egup_trainer.components.component import Component, ComponentOptions, Run
from egup_trainer.errors import ConfigError, check_range
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.options import option


@dataclass
class SharpForgettingOptions(ComponentOptions):
    """Options of `SharpForgetting`."""

    help_title = "Method"

    forget_sharpness: float | None = option(
        None,
        "Sharpness-aware forgetting: compute the gradient of each step at nearby weights that know the forget rows "
        "best, so that these are harder to relearn. The value is the distance to these weights, as a share of the "
        "length of the first step. A step takes half as long again. 0 switches it off; by default 0.2 with strength "
        "thorough, and else 0.",
    )

    def check_options(self) -> None:
        check_range(self, ("forget_sharpness",), low=0)

    @property
    def sharpness(self: Any) -> float:
        """`forget_sharpness`, or that of the run's strength if it is not given."""
        by_default = EFFORTS[self.strength].sharpness if getattr(self, "uses_auto", False) else 0.0
        return by_default if self.forget_sharpness is None else self.forget_sharpness

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        return SharpForgetting(self.sharpness) if self.sharpness else None


class SharpForgetting(Component):
    """Takes each step from w + rho g / |g|, where g is the gradient of the forget objective at the weights w.

    Sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412) against relearning, as in Fan et al. 2025, arXiv
    2502.05374: what a few steps of relearning would bring back is pushed away as well. Here, all terms of the step are
    computed at the moved weights, and the radius is rho = `share` * learning rate * sqrt(number of trained weights), a
    share of the length of Adam's first step (both **ours**). |g| is the norm over all trained weights.

    Before a step, the forget rows are read once more. The weights are moved, and put back bit by bit before the
    optimizer's step, which needs a copy of the weights that are trained. What is logged of a step is measured at the
    moved weights.

    Args:
        share: the radius, as a share of the first step.

    Raises:
        ConfigError: from `attach`, under DeepSpeed, whose engine holds the gradients, or FSDP1, which flattens the
            weights.
    """

    name = "sharp_forgetting"
    flag = "forget_sharpness"
    switch_off = "set --forget_sharpness 0"

    def __init__(self, share: float):
        self.share = share
        self._kept: list[tuple[Tensor, Tensor]] = []

    def attach(self, run: Run) -> None:
        super().attach(run)
        if not run.can_move_weights:
            raise ConfigError(
                got=f"forget_sharpness={self.share:g} with DeepSpeed or FSDP1, under which weights cannot be moved",
                expected="one process, DDP or FSDP2",
                fix=self.switch_off,
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the weights to where the forget objective is higher."""
        self.run.backward_forget()
        # Only now: FSDP2 keeps some weights whole after the passes of the scan, and the whole ones are not trained.
        trained = [weight for weight in kwargs["model"].parameters() if weight.requires_grad]
        moved = {weight: weight.grad for weight in trained if weight.grad is not None}
        norm = total_norm(list(moved.values()))
        if isfinite(norm) and norm > 0:  # the step itself refuses an infinite gradient, or skips it under fp16
            auto = [each for each in self.run.components if isinstance(each, Auto)]
            rate = auto[0].rate if auto else args.learning_rate
            radius = self.share * rate * sqrt(sum(weight.numel() for weight in trained))
            with torch.no_grad():
                for weight, gradient in moved.items():
                    self._kept.append((weight, weight.detach().clone()))
                    weight.add_(gradient, alpha=radius / norm)
        for weight in moved:
            weight.grad = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the weights back."""
        self.release()

    def release(self) -> None:
        """Puts the weights back, so that a model that is saved after an interrupt is not one of the moved weights."""
        with torch.no_grad():
            for weight, kept in self._kept:
                weight.copy_(kept)
        self._kept.clear()

    def bytes_of_state(self) -> int:
        """The copy of the trained weights, which is held during a step."""
        trained = (weight for weight in self.run.model.parameters() if weight.requires_grad)
        return sum(weight.numel() * weight.element_size() for weight in trained)


def total_norm(gradients: list[Tensor]) -> float:
    """The norm over all gradients together, on every process also where each holds a share of them (FSDP2).

    Example:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([0.0, 4.0])])
        5.0
    """
    squares = [gradient.float().square().sum() for gradient in gradients]
    whole: list[Any] = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in squares]
    return sqrt(sum(each.item() for each in whole))
