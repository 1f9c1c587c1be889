"""Rows -> padded tensors. Masks come from lengths, never from the padding id, which is often a real token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, TokenizedRow

Item = tuple[int, TokenizedRow]
Batch = dict[str, torch.Tensor]


class RowCollator:
    """Pads rows on the right to the longest of the batch.

    Returns `input_ids`, `attention_mask` and `labels`, each int64 of shape (B, T): what any causal language model
    takes, for evaluation and scoring.

    Args:
        tokenizer: gives the padding id; any id serves, since masks come from lengths.

    Example:
        >>> row = TokenizedRow(np.array([5, 6]), np.array([-100, 6]))
        >>> RowCollator(None)([(0, row)])["labels"]
        tensor([[-100,    6]])
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        ids = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        self.pad_token_id = next((token for token in ids if token is not None), 0)

    def __call__(self, items: Sequence[Item]) -> Batch:
        return self.pad([row for _, row in items])

    def pad(self, rows: Sequence[TokenizedRow]) -> Batch:
        """The rows as tensors of one length."""
        width = max(len(row) for row in rows)
        ids = np.full((len(rows), width), self.pad_token_id, dtype=np.int64)
        labels = np.full((len(rows), width), IGNORE_INDEX, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)], labels[place, : len(row)], mask[place, : len(row)] = row.input_ids, row.labels, 1
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
        }


class PairCollator:
    """Joins forget rows, retain rows and, if asked for, a second view of each forget row into one batch.

    The rows stand in this order, so one forward pass serves all. `forget_ids` (B_f,), `retain_ids` (B_r,) and
    `positive_ids` (B_p,) hold their stable sample ids (`NO_SAMPLE` for a filler), and their lengths say where a part
    ends.

    Args:
        rows: pads the joined rows.
        with_retain: whether pairs carry a retain row.
        positives: what the second view is: None, "views" (the same row; noise is added in the model) or
            "paraphrase", which each forget row must have.
    """

    def __init__(self, rows: RowCollator, with_retain: bool = True, positives: str | None = None):
        self.rows, self.with_retain, self.positives = rows, with_retain, positives

    def __call__(self, pairs: Sequence[list[Item]]) -> Batch:
        parts = {"forget_ids": [pair[0] for pair in pairs]}
        if self.with_retain:
            parts["retain_ids"] = [pair[1] for pair in pairs]
        if self.positives:
            parts["positive_ids"] = [(index, self._second_view(index, row)) for index, row in parts["forget_ids"]]
        batch = self.rows.pad([row for part in parts.values() for _, row in part])
        ids = {name: torch.tensor([index for index, _ in part]) for name, part in parts.items()}
        return {**batch, **ids}

    def _second_view(self, index: int, row: TokenizedRow) -> TokenizedRow:
        return row if self.positives == "views" or index == NO_SAMPLE else row.paraphrase
