"""Stops a run at a loss or gradient that is not finite, before it changes a weight."""

from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.data.collator import Part
from egup_trainer.errors import NumberError
from egup_trainer.modeling.outputs import AnswerOutputs

_FIX = "look at these samples, lower --learning_rate, or train without fp16; no weight was changed in this step"


def refuse_infinite_terms(
    terms: dict[str, Tensor], parts: dict[Part, AnswerOutputs], inputs: dict[str, Tensor]
) -> None:
    """Raises `NumberError` if a term of a micro-batch's loss is not finite.

    It names the terms, and the samples whose log-likelihood is not finite; if there are none, all samples of the
    micro-batch, whose ids are among its `inputs`.
    """
    if torch.stack(list(terms.values())).isfinite().all():
        return
    wrong = ", ".join(f"{name} = {value.item():g}" for name, value in terms.items() if not value.isfinite())
    ids = {part: inputs[part.value] for part in parts}
    lost = {part: ids[part][~outputs.sum_nll.isfinite()] for part, outputs in parts.items()}
    samples = lost if any(map(len, lost.values())) else ids
    raise NumberError(got=f"a loss that is not finite: {wrong}; {_named(samples)}", expected="finite numbers", fix=_FIX)


def refuse_infinite_gradient(model: nn.Module, samples: dict[Part, Tensor]) -> None:
    """Raises `NumberError` if a gradient is not finite.

    It cannot name the weight: clipping has already divided all gradients by their norm. Gradients that DeepSpeed holds
    are not checked.
    """
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    if not (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).isfinite():
        raise NumberError(got=f"a gradient that is not finite; {_named(samples)}", expected="finite numbers", fix=_FIX)


def _named(samples: dict[Part, Tensor]) -> str:
    names = {
        part.value.removesuffix("_ids"): sorted({index for index in ids.tolist() if index >= 0})
        for part, ids in samples.items()
    }
    return ", ".join(f"{name} samples {' '.join(map(str, ids))}" for name, ids in names.items() if ids)
