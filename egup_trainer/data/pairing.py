"""Pairs of a forget row and a retain row, a pure function of (seed, epoch, index), and the loader of such pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from egup_trainer.data.collator import PairCollator
from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import ConfigError

Pair = tuple[int, int]
"""Ids of a forget row and of its retain row; `NO_SAMPLE` if there is none."""

_MAX_STEPS, _MIN_WINDOWS = 50, 4
"""Rows of similar length are grouped within windows of at most 50 steps and at most a quarter of an epoch, so that
epochs differ, as transformers does it."""


class PairDataset(Dataset):
    """Forget rows paired with retain rows. Items are indexed by a `Pair`; the length is that of the forget set.

    Args:
        retain: the retain set, or None to train only on forget rows.
        example_share: share of the pairs, from 0 to 1, whose forget row is read after the retain row. Which ones they
            are depends on the two ids alone.
        max_length: most tokens of the two together; where they have more, the forget row is read alone.
    """

    def __init__(
        self, forget: RowDataset, retain: RowDataset | None, example_share: float = 0.0, max_length: int | None = None
    ):
        self.forget, self.retain = forget, retain
        self._example_share, self._max_length = example_share, max_length
        first = forget.rows[0]
        self._filler = TokenizedRow(first.input_ids[:1], np.full(1, IGNORE_INDEX, dtype=np.int32))

    def fit(self, positions: int | None) -> None:
        """Leaves out examples with which a forget row has more tokens than the model has `positions`; None for any."""
        given = [each for each in (self._max_length, positions) if each is not None]
        self._max_length = min(given, default=None)

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, pair: Pair) -> list[tuple[int, TokenizedRow]]:
        sides = [side for side in (self.forget, self.retain) if side is not None]
        items = [side[index] if index != NO_SAMPLE else (NO_SAMPLE, self._filler) for side, index in zip(sides, pair)]
        if self.has_example(pair):
            (index, row), (_, example) = items
            items[0] = (index, row.after(example))
        return items

    def has_example(self, pair: Pair) -> bool:
        """Whether the forget row of a pair is read after the retain row."""
        if not self._example_share or self.retain is None or NO_SAMPLE in pair:
            return False
        length = sum(len(side.rows[index]) for side, index in zip((self.forget, self.retain), pair, strict=True))
        fits = self._max_length is None or length <= self._max_length
        # A checksum is as good as a random number, and a hundred times as fast as a generator of its own.
        return fits and crc32(f"{pair[0]} {pair[1]}".encode()) < self._example_share * 2**32


@dataclass(frozen=True)
class Lengths:
    """The lengths that pairs are grouped by.

    Args:
        forget, retain: number of tokens per row, shape (N_f,) and (N_r,).
        step_pairs: number of pairs per optimizer step, over all micro-batches and ranks.
    """

    forget: np.ndarray
    retain: np.ndarray
    step_pairs: int

    @classmethod
    def of(cls, dataset: PairDataset, step_pairs: int) -> "Lengths":
        """The lengths of the rows of a dataset."""
        sides = (dataset.forget, dataset.retain)
        forget, retain = (np.array([] if side is None else [len(row) for row in side.rows]) for side in sides)
        return cls(forget, retain, step_pairs)


def group_by_length(pairs: list[Pair], lengths: Lengths, generator: np.random.Generator) -> list[Pair]:
    """The same rows, paired and ordered so that a step has little padding.

    Within a window of consecutive steps, forget rows and retain rows are sorted, longest first, and paired again; then
    all steps are put in a random order. An incomplete step stays the last one. A step has the same pairs however it is
    divided into batches.

    Example:
        >>> lengths = Lengths(np.array([3, 9, 4, 8]), np.array([2, 7, 1, 6]), step_pairs=2)
        >>> sorted(group_by_length([(0, 1), (1, 2), (2, 3), (3, 0)], lengths, np.random.default_rng(0)))
        [(0, 2), (1, 1), (2, 0), (3, 3)]
    """
    size = lengths.step_pairs
    window = size * max(1, min(len(pairs) // size // _MIN_WINDOWS, _MAX_STEPS))
    steps = []
    for start in range(0, len(pairs), window):
        forget, retain = zip(*pairs[start : start + window], strict=True)
        sides = (_longest_first(forget, lengths.forget), _longest_first(retain, lengths.retain))
        sorted_pairs = list(zip(*sides, strict=True))
        steps += [sorted_pairs[first : first + size] for first in range(0, len(sorted_pairs), size)]
    tail = [steps.pop()] if len(steps[-1]) < size else []
    return [pair for step in [*(steps[index] for index in generator.permutation(len(steps))), *tail] for pair in step]


def _longest_first(rows: tuple[int, ...], lengths: np.ndarray) -> list[int]:
    return sorted(rows, key=lambda row: -lengths[row] if row != NO_SAMPLE else 0)


class PairBatchSampler(Sampler[list[Pair]]):
    """Batches of pairs for one rank.

    An epoch visits each forget row once, in a random order given by (seed, epoch). The retain set is visited in random
    orders given by (seed, round): each retain row is seen once before any is seen twice, also across epochs. The n-th
    optimizer step takes the same pairs however it is divided: batch m of rank r holds the pairs from
    (m * world_size + r) * batch_size on. An incomplete last batch is filled with `NO_SAMPLE` pairs, which weigh
    nothing.

    Args:
        num_retain: number of rows in the retain set; 0 if there is none.
        rank, world_size: which part of the pairs this rank takes.
        drop_last: whether to leave out the end of an epoch that does not fill a step.
        accumulation: number of batches of each rank in a step, for `drop_last`.
        lengths: if given, each step takes rows of similar length, see `group_by_length`.

    Example:
        >>> sampler = PairBatchSampler(num_forget=3, num_retain=2, batch_size=2, seed=0)
        >>> [len(batch) for batch in sampler]
        [2, 2]
    """

    def __init__(
        self,
        num_forget: int,
        num_retain: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        lengths: Lengths | None = None,
        accumulation: int = 1,
    ):
        self.num_forget, self.num_retain = num_forget, num_retain
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.drop_last, self.lengths, self.accumulation = drop_last, lengths, accumulation
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration, which decides the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        at_once = self.batch_size * self.world_size
        if self.drop_last:  # the same rows however a step is divided
            return self.num_forget // (at_once * self.accumulation) * self.accumulation
        return ceil(self.num_forget / at_once)

    def __iter__(self) -> Iterator[list[Pair]]:
        pairs = self.pairs(self.epoch)
        for index in range(len(self)):
            start = (index * self.world_size + self.rank) * self.batch_size
            batch = pairs[start : start + self.batch_size]
            yield batch + [(NO_SAMPLE, NO_SAMPLE)] * (self.batch_size - len(batch))

    def pairs(self, epoch: int) -> list[Pair]:
        """All pairs of an epoch, in the order in which all ranks together see them."""
        forget = np.random.default_rng([self.seed, 0, epoch]).permutation(self.num_forget)
        pairs = [(int(row), self._retain_at(epoch * self.num_forget + index)) for index, row in enumerate(forget)]
        if self.lengths is None:
            return pairs
        return group_by_length(pairs, self.lengths, np.random.default_rng([self.seed, 2, epoch]))

    def _retain_at(self, position: int) -> int:
        if not self.num_retain:
            return NO_SAMPLE
        round_number, offset = divmod(position, self.num_retain)
        return int(_retain_order(self.seed, round_number, self.num_retain)[offset])


@lru_cache(maxsize=2)
def _retain_order(seed: int, round_number: int, num_retain: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, round_number]).permutation(num_retain)


def make_pair_sampler(dataset: PairDataset, batch_size: int, args: Any) -> PairBatchSampler:
    """The sampler of this process.

    Args:
        batch_size: number of pairs per batch on one process.
        args: an `UnlearnConfig`.

    Raises:
        ConfigError: an epoch has no batch.
    """
    step_pairs = batch_size * args.world_size * args.gradient_accumulation_steps
    by_length = args.train_sampling_strategy == "group_by_length"
    sampler = PairBatchSampler(
        len(dataset.forget),
        0 if dataset.retain is None else len(dataset.retain),
        batch_size=batch_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        rank=args.process_index,
        world_size=args.world_size,
        drop_last=args.dataloader_drop_last,
        lengths=Lengths.of(dataset, step_pairs) if by_length else None,
        accumulation=args.gradient_accumulation_steps,
    )
    if not len(sampler):
        raise ConfigError(
            got=f"{len(dataset)} forget rows and dataloader_drop_last",
            expected=f"at least {step_pairs} rows, which fill a step",
            fix="leave out --dataloader_drop_last, or lower --per_device_train_batch_size or "
            "--gradient_accumulation_steps",
        )
    return sampler


def make_pair_loader(dataset: PairDataset, sampler: PairBatchSampler, collator: PairCollator, args: Any) -> DataLoader:
    """A plain loader. `accelerator.prepare` must not see it: it would divide each batch among all processes."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context if args.dataloader_num_workers else None,
        in_order=args.dataloader_in_order,
    )
