"""Rows -> padded tensors. Masks are made from lengths, never from the padding id, which is often a real token."""

from collections.abc import Collection, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, TokenizedRow
from egup_trainer.errors import DataError

Item = tuple[int, TokenizedRow]
Batch = dict[str, torch.Tensor]


class Part(str, Enum):
    """A part of a joined batch, named after the key of its sample ids. The order is that of the rows.

    The forward pass, the slices for the reference model and the noise of second views (the last rows) rely on it.
    """

    FORGET = "forget_ids"
    RETAIN = "retain_ids"
    ALTERNATE = "alternate_ids"
    POSITIVE = "positive_ids"


def parts_of(batch: Batch) -> dict[Part, slice]:
    """The parts that a joined batch has, and the rows of each.

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


def with_parts(batch: Batch, wanted: Collection[Part]) -> Batch:
    """A joined batch of only some of the parts.

    Example:
        >>> ids = {"forget_ids": torch.tensor([4]), "retain_ids": torch.tensor([7])}
        >>> batch = {**ids, **{name: torch.tensor([[1], [2]]) for name in ("input_ids", "attention_mask", "labels")}}
        >>> with_parts(batch, {Part.RETAIN})["input_ids"]
        tensor([[2]])
    """
    parts = {part: rows for part, rows in parts_of(batch).items() if part in wanted}
    read = {
        name: torch.cat([batch[name][rows] for rows in parts.values()])
        for name in ("input_ids", "attention_mask", "labels")
    }
    return {**read, **{part.value: batch[part.value] for part in parts}}


class RowCollator:
    """Pads rows on the right to the longest row of the batch.

    Returns `input_ids`, `attention_mask` and `labels`, each int64 of shape (B, T), as any causal language model takes
    them.

    Args:
        tokenizer: has the padding id. Any id of the model would do, since masks are made from lengths.

    Example:
        >>> row = TokenizedRow(np.array([5, 6]), np.array([-100, 6]))
        >>> RowCollator(None)([(0, row)])["labels"]
        tensor([[-100,    6]])
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        # The end-of-sequence token first: the model may not know a padding token that was added later.
        ids = (getattr(tokenizer, name, None) for name in ("eos_token_id", "pad_token_id"))
        self.pad_token_id = next((token for token in ids if token is not None), 0)

    def __call__(self, items: Sequence[Item]) -> Batch:
        return self.pad([row for _, row in items])

    def pad(self, rows: Sequence[TokenizedRow]) -> Batch:
        """The rows as tensors of one length."""
        return {
            "input_ids": _pad([row.input_ids for row in rows], self.pad_token_id),
            "attention_mask": _pad([np.ones(len(row)) for row in rows], 0),
            "labels": _pad([row.labels for row in rows], IGNORE_INDEX),
        }


def _pad(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True, padding_value=value)


class PairCollator:
    """Joins forget rows, retain rows and, if requested, the forget rows' alternates and second views into one batch.

    The rows are in the order of `Part`, so that one forward pass serves all of them. `forget_ids` (B_f,), `retain_ids`
    (B_r,), `alternate_ids` (B_f,) and `positive_ids` (B_f,) hold their stable sample ids (`NO_SAMPLE` for a filler),
    and the lengths of these say where a part ends.

    Args:
        positives: the second view: None, "views" (the same row; noise is added in the model) or "paraphrase", which
            each forget row must have.
        with_alternates: whether the batch holds the forget rows' alternate answers, which each row must have.
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
        if self.positives == "paraphrase":
            parts[Part.POSITIVE] = [(index, _unless_filler(index, row, row.paraphrase)) for index, row in forget]
        elif self.positives:
            parts[Part.POSITIVE] = forget
        batch = self.rows.pad([row for part in parts.values() for _, row in part])
        ids = {part.value: torch.tensor([index for index, _ in items]) for part, items in parts.items()}
        return {**batch, **ids}


def _unless_filler(index: int, row: TokenizedRow, other: TokenizedRow | None) -> TokenizedRow:
    """The other row, or the row itself if it is a filler."""
    if index == NO_SAMPLE:
        return row
    if other is None:
        raise DataError(
            got=f"forget sample {index} without a paraphrase or an alternate answer",
            expected="one for every forget row",
            fix="give each row one",
        )
    return other
