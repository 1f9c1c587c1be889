"""How often the optimizer steps, and the micro-batch that takes most memory."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from torch import Tensor

from egup_trainer.data.collator import PairCollator, RowCollator
from egup_trainer.data.pairing import NO_SAMPLE, PairDataset
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.loaders import make_pair_sampler
from egup_trainer.losses.registry import forget_loss

_MOST_PAIRS = 2_000_000
"""Pairs that are looked at; later epochs deal out the same rows once more."""


def optimizer_steps(batches: int, accumulation: int, epochs: float, max_steps: int = -1) -> int:
    """Steps of a run, as transformers counts them.

    Formula: ceil(epochs * ceil(batches / accumulation)), or `max_steps` where it is above 0.

    Args:
        batches: micro-batches of an epoch on one process; the last one may be ragged.

    Example:
        >>> optimizer_steps(batches=5, accumulation=2, epochs=2.5)
        8
    """
    if max_steps > 0:
        return max_steps
    return ceil(epochs * max(ceil(batches / accumulation), 1))


@dataclass(frozen=True)
class Rows:
    """What a run reads.

    Args:
        forget, retain, proxy: tokenized; the last two may be missing.
        tokenizer: what they were tokenized by.
    """

    forget: RowDataset
    retain: RowDataset | None
    proxy: RowDataset | None
    tokenizer: Any


def count_steps(rows: Rows, args: Any) -> int:
    """Optimizer steps of a run with these options."""
    sampler = make_pair_sampler(PairDataset(rows.forget, rows.retain), args.train_batch_size, args)
    return optimizer_steps(len(sampler), args.gradient_accumulation_steps, args.num_train_epochs, args.max_steps)


def largest_batch(rows: Rows, args: Any, positives: str | None) -> dict[str, Tensor]:
    """Of all micro-batches of this process, the one with most tokens to read, joined as the trainer joins it.

    Args:
        args: an `EGUPConfig`.
        positives: what second views are, as in `PairCollator`.
    """
    dataset, alternates = PairDataset(rows.forget, rows.retain), forget_loss(args.objective).alternate is not None
    sampler = make_pair_sampler(dataset, args.train_batch_size, args)
    lengths = _lengths_of_pairs(rows, positives, alternates)
    epochs = ceil(count_steps(rows, args) * args.gradient_accumulation_steps / len(sampler))
    best, most = [], -1
    for epoch in range(min(epochs, max(_MOST_PAIRS // len(rows.forget), 1))):
        sampler.set_epoch(epoch)
        for batch in sampler:
            tokens = sum(lengths[0][forget] + lengths[1][retain] for forget, retain in batch if forget != NO_SAMPLE)
            if tokens > most:
                best, most = batch, tokens
    collator = PairCollator(RowCollator(rows.tokenizer), rows.retain is not None, positives, alternates)
    return collator([dataset[pair] for pair in best])


def _lengths_of_pairs(rows: Rows, positives: str | None, alternates: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that a forget row brings with it, its alternate and second view included, and those of a retain row."""
    forget: np.ndarray = np.array([len(row) for row in rows.forget.rows])
    if positives == "views":
        forget = 2 * forget
    elif positives:
        forget = forget + [len(row.paraphrase or ()) for row in rows.forget.rows]
    if alternates:
        forget = forget + [len(row.alternate or ()) for row in rows.forget.rows]
    retain = [len(row) for row in rows.retain.rows] if rows.retain is not None else []
    return forget, np.array([*retain, 0])  # the place of a row that is not there, -1, counts nothing
