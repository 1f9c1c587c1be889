"""Rows -> padded tensors. Masks come from lengths, never from the padding id, which is often a real token."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch

from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, TokenizedRow

Item = tuple[int, TokenizedRow]
Batch = dict[str, torch.Tensor]


class Part(str, Enum):
    """A part of a joined batch, by the name of its sample ids; in the order of the rows.

    The forward pass, the slices for a reference and the noise of second views (the last rows) all go by this order.
    """

    FORGET = "forget_ids"
    RETAIN = "retain_ids"
    ALTERNATE = "alternate_ids"
    POSITIVE = "positive_ids"


def parts_of(batch: Batch) -> dict[Part, slice]:
    """The parts that a joined batch has, and which of its rows they are.

    Example:
        >>> parts_of({"forget_ids": torch.tensor([4, 2]), "positive_ids": torch.tensor([4, 2])})[Part.POSITIVE]
        slice(2, 4, None)
    """
    parts: dict[Part, slice] = {}
    start = 0
    for part in Part:
        if part in batch:
            stop = start + len(batch[part])
            parts[part], start = slice(start, stop), stop
    return parts


class RowCollator:
    """Pads rows on the right to the longest of the batch.

    Returns `input_ids`, `attention_mask` and `labels`, each int64 of shape (B, T): what any causal language model
    takes, for evaluation and scoring.

    Args:
        tokenizer: gives the padding id; any id of the model serves, since masks come from lengths.

    Example:
        >>> row = TokenizedRow(np.array([5, 6]), np.array([-100, 6]))
        >>> RowCollator(None)([(0, row)])["labels"]
        tensor([[-100,    6]])
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        # The end first: a padding token that was added later is one that the model may not know.
        ids = (getattr(tokenizer, name, None) for name in ("eos_token_id", "pad_token_id"))
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
    """Joins forget rows, retain rows and, if asked for, the forget rows' alternates and second views into one batch.

    The rows stand in the order of `Part`, so one forward pass serves all. `forget_ids` (B_f,), `retain_ids` (B_r,),
    `alternate_ids` (B_f,) and `positive_ids` (B_f,) hold their stable sample ids (`NO_SAMPLE` for a filler), and their
    lengths say where a part ends.

    Args:
        rows: pads the joined rows.
        with_retain: whether pairs carry a retain row.
        positives: what the second view is: None, "views" (the same row; noise is added in the model) or
            "paraphrase", which each forget row must have.
        with_alternates: whether forget rows come with their alternate answers, which each must have.
    """

    def __init__(
        self,
        rows: RowCollator,
        with_retain: bool = True,
        positives: str | None = None,
        with_alternates: bool = False,
    ):
        self.rows, self.with_retain, self.positives = rows, with_retain, positives
        self.with_alternates = with_alternates

    def __call__(self, pairs: Sequence[list[Item]]) -> Batch:
        forget = [pair[0] for pair in pairs]
        parts = {Part.FORGET: forget}
        if self.with_retain:
            parts[Part.RETAIN] = [pair[1] for pair in pairs]
        if self.with_alternates:
            parts[Part.ALTERNATE] = [(index, _unless_filler(index, row, row.alternate)) for index, row in forget]
        if self.positives:
            parts[Part.POSITIVE] = [(index, self._second_view(index, row)) for index, row in forget]
        batch = self.rows.pad([row for part in parts.values() for _, row in part])
        ids = {part.value: torch.tensor([index for index, _ in items]) for part, items in parts.items()}
        return {**batch, **ids}

    def _second_view(self, index: int, row: TokenizedRow) -> TokenizedRow:
        return row if self.positives == "views" else _unless_filler(index, row, row.paraphrase)


def _unless_filler(index: int, row: TokenizedRow, other: TokenizedRow | Any) -> TokenizedRow:
    """What stands for a row; a filler stands for itself."""
    return row if index == NO_SAMPLE else other
