"""The model before unlearning, in the cheapest form that the chosen losses need."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.outputs import AnswerOutputs


class Need(str, Enum):
    """What a loss must know of the model before unlearning."""

    NLL = "nll"
    """L_i^0 of each forget row: numbers, taken once by the scan."""
    TOP_K = "top_k"
    """Distributions at answer positions, of which the most likely tokens will do. For a retain loss alone, the scan's
    numbers may serve; otherwise the model."""
    LIKELY = TOP_K  # the name in version 0.1
    LOGITS = "logits"
    """Whole distributions at answer positions: the model itself must be at hand."""
    HIDDEN = "hidden"
    """Hidden states at answer tokens: the model itself must be at hand."""


NEEDS_OF_THE_MODEL = frozenset({Need.LOGITS, Need.HIDDEN})
"""Needs that no cached number serves."""

NEEDS_OF_LOGITS = frozenset({Need.LOGITS, Need.TOP_K})
"""Needs for which a model that is run must give its logits."""


class ReferenceKind(str, Enum):
    """How the model before unlearning is kept."""

    NONE = "none"
    CACHED = "cached"
    """A number a row."""
    TOP_K = "likely_tokens"
    """The most likely tokens at each answer token."""
    ADAPTER_OFF = "adapter_off"
    """The model being trained, without its adapter."""
    FROZEN_COPY = "frozen_copy"


def choose_reference(needs: frozenset[Need], model: nn.Module, size_of_tokens: float = inf) -> ReferenceKind:
    """What serves `needs` with the least memory.

    Args:
        needs: what losses must know.
        model: the bare model before its first step.
        size_of_tokens: bytes that the most likely tokens of all rows take that need them; infinite if they are not
            to be used.
    """
    if needs <= {Need.NLL}:
        return ReferenceKind.CACHED if needs else ReferenceKind.NONE
    if adapters_are_identity(model):
        return ReferenceKind.ADAPTER_OFF
    if not needs & NEEDS_OF_THE_MODEL and size_of_tokens < size_of(model):
        return ReferenceKind.TOP_K
    return ReferenceKind.FROZEN_COPY


def size_of(model: nn.Module) -> int:
    """Bytes of a model's weights, that is of a copy of it."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def adapters_are_identity(model: nn.Module) -> bool:
    """Whether the model has LoRA adapters that do nothing yet, so that switching them off gives the model itself.

    A LoRA update is the product of two matrices and starts with one of them at zero. An adapter that was trained
    before, or starts elsewhere, is a part of the model before unlearning. Biases that train with an adapter are part of
    the base model and would not be switched off.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    if not isinstance(model, PeftModel) or any(config.bias != "none" for config in _lora_configs(model)):
        return False
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return bool(layers) and all(
        all(not parameter.any() for parameter in factors.parameters())
        for layer in layers
        for factors in ([layer.lora_embedding_A] if len(layer.lora_embedding_A) else [layer.lora_B])
    )


def _lora_configs(model: Any) -> list[Any]:
    return [config for config in model.peft_config.values() if hasattr(config, "bias")]


class Reference:
    """The model before unlearning, for losses that need its logits or hidden states.

    Args:
        kind: `ADAPTER_OFF` or `FROZEN_COPY` make a runnable reference; the others hold nothing.
        model: the bare model before its first step.
        reader: reads answers of `model`.
    """

    def __init__(self, kind: ReferenceKind, model: Any, reader: AnswerReader):
        self.kind, self._model, self._reader = kind, model, reader
        self.frozen_copy = None
        if kind is ReferenceKind.FROZEN_COPY:
            self.frozen_copy = copy.deepcopy(model).eval().requires_grad_(False)
            self._reader = reader.of(self.frozen_copy)

    @torch.no_grad()
    def read(
        self, wrapped: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, needs: frozenset[Need]
    ) -> AnswerOutputs:
        """What rows (B, T) are to the model before unlearning: logits (N, V) and hidden states (N, d), as needed.

        Args:
            wrapped: the model as wrapped for training, which is what has to be called.
            needs: which of the two are asked for.
        """
        options: dict[str, Any] = {
            "with_features": False,
            "keep_logits": bool(needs & NEEDS_OF_LOGITS),
            "with_hidden": Need.HIDDEN in needs,
        }
        if self.frozen_copy is not None:
            self.frozen_copy.to(input_ids.device)
            return self._reader(self.frozen_copy, input_ids, attention_mask, labels, **options)
        with adapters_off(self._model):
            return self._reader(wrapped, input_ids, attention_mask, labels, **options)


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """The model of PEFT without its adapters for the time being; weights that were frozen stay so."""
    required = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for weight, was_required in required:  # PEFT makes an adapter trainable when it switches it on again
            weight.requires_grad_(was_required)
