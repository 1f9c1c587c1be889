"""What a model cannot read: tokens that it does not know, and texts longer than its positions."""

from collections.abc import Iterable
from typing import Any

from egup_trainer.data.schema import TokenizedRow
from egup_trainer.errors import ModelError


def virtual_tokens(model: Any) -> int:
    """Tokens that an adapter puts before each text (prompt tuning and its kin); 0 for other adapters, or none."""
    configs = getattr(model, "peft_config", {}).values()
    return max((config.num_virtual_tokens for config in configs if config.is_prompt_learning), default=0)


def check_positions(model: Any, needed: int, what: str, fix: str) -> None:
    """Raises `ModelError` if the model has fewer positions than tokens are needed.

    Args:
        needed: number of tokens.
        what: they are for, and `fix`: what to do, for the message.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions < 1:  # XLNet says -1: no limit
        return
    positions -= virtual_tokens(model)
    if needed > positions:
        raise ModelError(
            got=f"{needed} tokens of {what} for a model of {positions} positions",
            expected=f"at most {positions} tokens",
            fix=fix,
        )


def check_token_ids(model: Any, rows: Iterable[TokenizedRow], what: str) -> None:
    """Raises `ModelError` if rows hold a token that the model does not know: its tokenizer is another model's.

    The tokens in use count, not the size of the tokenizer: some have tokens that no text makes, and no model knows.

    Args:
        rows: tokenized rows.
        what: they are, for the message.
    """
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    largest = max((int(row.input_ids.max()) for row in rows), default=0)
    if known is not None and largest >= known:
        raise ModelError(
            got=f"token {largest} in {what} for a model of {known} tokens",
            expected="the model's own tokenizer",
            fix="check the tokenizer's files, or resize the model's embeddings",
        )
