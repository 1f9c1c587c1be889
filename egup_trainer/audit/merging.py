"""Merging: whether weights halfway back to the model before unlearning know the forgotten rows again.

Whoever merges an unlearned model with its ancestor, or with a model that was fine-tuned from it, adds a share of what
was taken away: the task vector of unlearning (Ilharco et al. 2023, arXiv 2212.04089) is scaled down.
"""

from typing import Any

import torch
from torch import nn

from egup_trainer.audit.attack import NEEDS_BEFORE, Finding, Target, is_quantized, merged_copy, recall_metrics
from egup_trainer.errors import ModelError

HALF = 0.5
"""Share of the model before in the merged weights."""


def merging(target: Target) -> Finding:
    """Probability and extraction strength of forget and retain rows with weights halfway to the model before."""
    if target.load_before is None:
        return Finding(reason=NEEDS_BEFORE)
    before = target.load_before()
    if is_quantized(target.model) or is_quantized(before):
        return Finding(reason="the weights of a model are quantized, and cannot be averaged")
    return Finding(recall_metrics(target, merged_model(target.model, before), "halfway_"))


@torch.no_grad()
def merged_model(model: nn.Module, other: nn.Module, share: float = HALF) -> Any:
    """A copy of a model with the weights (1 - share) W + share W_other, in float32, with adapters merged before.

    The other model is only read, and copied only to merge its adapters.

    Args:
        other: a model with the same weights by name; neither model is changed.

    Raises:
        ModelError: the weights of the two have other names or shapes.

    Example:
        >>> # merged_model(model, before)  # halfway between the two
    """
    from peft import PeftModel

    twin = merged_copy(model).float()
    if isinstance(other, PeftModel):
        other = merged_copy(other)
    theirs = dict(other.named_parameters(remove_duplicate=False))  # weights that only one of the two ties have a pair
    for name, weight in twin.named_parameters():
        if name not in theirs or theirs[name].shape != weight.shape:
            raise ModelError(
                got=f"a model before unlearning without the weights {name} of shape {tuple(weight.shape)}",
                expected="the model that unlearning started from",
                fix="name it as --model_before, or leave merging out of --attacks",
            )
        weight.lerp_(theirs[name].to(weight), share)
    return twin
