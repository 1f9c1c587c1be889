"""The reference model: the model before unlearning, in the cheapest form that serves the losses."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.errors import ConfigError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.outputs import AnswerOutputs


class Need(str, Enum):
    """What a loss needs to know of the reference model."""

    NLL = "nll"
    """L_i^0 of each forget row: numbers from the scan."""
    TOP_K = "top_k"
    """Distributions at answer positions, for which top-k log-probabilities are enough. For a retain loss, the scan may
    store them; for a forget loss, the reference model computes its logits at each step."""
    LOGITS = "logits"
    """Full distributions at answer positions, from the model itself."""
    HIDDEN = "hidden"
    """Hidden states at answer tokens, from the model itself."""
    EXPECTED = "expected"
    """The outputs expected of a model that never saw the rows, at the answer positions: from `ExpectedOutputs`."""


NEEDS_OF_THE_SCAN = frozenset({Need.NLL, Need.EXPECTED})
"""Needs that tables from before the first step serve."""

NEEDS_OF_THE_MODEL = frozenset({Need.LOGITS, Need.HIDDEN})
"""Needs that the scan cannot serve."""

NEEDS_OF_LOGITS = frozenset({Need.LOGITS, Need.TOP_K})
"""Needs for which the model must return its logits."""


class ReferenceKind(str, Enum):
    """How the reference model is kept."""

    NONE = "none"
    CACHED = "cached"
    """One number per row."""
    TOP_K = "likely_tokens"
    """Top-k log-probabilities at each answer token. The value is the one that records have had since version 0.1."""
    ADAPTER_OFF = "adapter_off"
    """The trained model with its adapter switched off."""
    FROZEN_COPY = "frozen_copy"


def choose_reference(needs: frozenset[Need], model: nn.Module, top_k_bytes: float = inf) -> ReferenceKind:
    """The kind of reference that serves `needs` with the least memory.

    Args:
        model: the bare model before its first step.
        top_k_bytes: size of the top-k log-probabilities of all rows that need them; infinite if they may not be used.

    Raises:
        ConfigError: the model would have to be copied, but DeepSpeed ZeRO-3 has spread its weights over the processes
            as it was loaded.
    """
    if needs <= NEEDS_OF_THE_SCAN:
        return ReferenceKind.CACHED if needs else ReferenceKind.NONE
    if adapters_are_identity(model):
        return ReferenceKind.ADAPTER_OFF
    if not needs & NEEDS_OF_THE_MODEL and top_k_bytes < size_of(model):
        return ReferenceKind.TOP_K
    if any(hasattr(weight, "ds_numel") for weight in model.parameters()):
        raise ConfigError(
            got="an objective or a retain loss that needs a copy of the model before unlearning, with a model that "
            "DeepSpeed ZeRO-3 spread over the processes as it was loaded",
            expected="a model that is whole when it is copied, or an adapter, without which it is the model before",
            fix="train an adapter (--use_peft), use FSDP2, or set zero3_init_flag: false to load it whole",
        )
    return ReferenceKind.FROZEN_COPY


def size_of(model: nn.Module) -> int:
    """Bytes of the weights of a model, of all processes together."""
    return sum(getattr(weight, "ds_numel", weight.numel()) * weight.element_size() for weight in model.parameters())


def adapters_are_identity(model: nn.Module) -> bool:
    """Whether the model has LoRA adapters that change nothing yet, so that it is the same without them.

    A LoRA update is the product of two matrices, one of which starts at zero. An adapter that was trained before, or
    starts elsewhere, is part of the reference model. Biases that train with an adapter belong to the base model and
    would not be switched off.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    if not isinstance(model, PeftModel):
        return False
    if any(getattr(config, "bias", "none") != "none" for config in model.peft_config.values()):
        return False
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return bool(layers) and all(
        all(not parameter.any() for parameter in factors.parameters())
        for layer in layers
        for factors in ([layer.lora_embedding_A] if len(layer.lora_embedding_A) else [layer.lora_B])
    )


class Reference:
    """The reference model, for losses that need its logits or hidden states.

    Args:
        kind: with `ADAPTER_OFF` or `FROZEN_COPY` the reference can be run; the other kinds hold no model.
        model: the bare model before its first step.
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
        """Runs the reference model on rows (B, T): logits (N, V) and hidden states (N, d), as needed.

        Args:
            wrapped: the trained model, as wrapped for training.
            needs: which of the two are needed.
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
    """Switches the adapters of a PEFT model off; weights that were frozen stay frozen."""
    required = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for weight, was_required in required:  # PEFT makes an adapter trainable when it switches it on
            weight.requires_grad_(was_required)
