"""Checks of what a model can read, and of the weights that it is saved with."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from egup_trainer.errors import ModelError, NumberError, TooFewPositionsError
from egup_trainer.modeling.offloading import iter_tensors


def virtual_tokens(model: Any) -> int:
    """Number of tokens that an adapter puts before each text (prompt tuning and similar); 0 for all other models."""
    configs = getattr(model, "peft_config", {}).values()
    return max((config.num_virtual_tokens for config in configs if config.is_prompt_learning), default=0)


def without_adapters(model: Any) -> Any:
    """The model below its adapters; the model itself if it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def num_positions(model: Any) -> int | None:
    """Number of tokens that the model can read at once; None if it sets no limit."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions < 1:  # XLNet says -1: no limit
        return None
    return positions - virtual_tokens(model)


def has_room(model: Any, length: int, new_tokens: int) -> bool:
    """Whether the model has positions for so many new tokens after a prompt of `length` tokens."""
    limit = num_positions(model)
    return limit is None or length + new_tokens <= limit


def check_positions(model: Any, needed: int, what: str, fix: str) -> None:
    """Raises `TooFewPositionsError` if the model has fewer positions than needed."""
    positions = num_positions(model)
    if positions is not None and needed > positions:
        raise TooFewPositionsError(
            got=f"{needed} tokens of {what} for a model of {positions} positions",
            expected=f"at most {positions} tokens",
            fix=fix,
        )


def check_token_ids(model: Any, texts: Iterable[np.ndarray], what: str) -> None:
    """Raises `ModelError` if texts hold a token that the model does not know: the tokenizer is not the model's own.

    Only tokens in use count: some tokenizers have tokens that no text contains and no model knows.
    """
    embedding = model.get_input_embeddings()
    bare = getattr(embedding, "base_layer", embedding)  # below an adapter
    known = getattr(bare, "num_embeddings", None)  # a model's own kind of embeddings may have another name for it
    largest = max((int(ids.max()) for ids in texts if len(ids)), default=0)
    if known is not None and largest >= known:
        raise ModelError(
            got=f"token {largest} in {what} for a model of {known} tokens",
            expected="the model's own tokenizer",
            fix="check the tokenizer's files, or resize the model's embeddings",
        )


def refuse_infinite_weights(model: nn.Module, state_dict: dict[str, Any] | None = None) -> None:
    """Raises `NumberError` if a weight is not a finite number: such a model has not forgotten, it is broken.

    Args:
        state_dict: its weights if an engine has gathered them; by default those that the model holds.
    """
    weights = {name for name, _ in model.named_parameters()}
    own = ((name, tensor) for name, tensor in iter_tensors(model) if name in weights)
    wrong = [
        name
        for name, weight in (own if state_dict is None else state_dict.items())
        if isinstance(weight, Tensor) and weight.is_floating_point() and not weight.isfinite().all()
    ]
    if wrong:
        raise NumberError(
            got=f"{len(wrong)} weight tensors that are not finite, such as {wrong[0]}: the model is not saved",
            expected="finite numbers",
            fix="lower --learning_rate, train without fp16, or start from another model if it had them before",
        )
