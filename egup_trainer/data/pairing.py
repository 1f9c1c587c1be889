"""Which retain row goes with which forget row: a pure function of (seed, epoch, index)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset, Sampler

from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, TokenizedRow
from egup_trainer.data.tokenization import RowDataset

Pair = tuple[int, int]
"""Ids of a forget row and of its retain row; `NO_SAMPLE` where there is none."""

_MOST_STEPS, _LEAST_WINDOWS = 50, 4
"""Rows of similar length are looked for among those of so many steps, and in so many parts of an epoch at least, so
that epochs differ; as transformers has it."""


class PairDataset(Dataset):
    """Forget rows with retain rows beside them; an item is looked up by a `Pair`, its length is the forget set's.

    Args:
        forget: the forget set.
        retain: the retain set, or None to train on forget rows alone.
    """

    def __init__(self, forget: RowDataset, retain: RowDataset | None):
        self.forget, self.retain = forget, retain
        first = forget.rows[0]
        self._filler = TokenizedRow(first.input_ids[:1], np.full(1, IGNORE_INDEX, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, pair: Pair) -> list[tuple[int, TokenizedRow]]:
        sides = [side for side in (self.forget, self.retain) if side is not None]
        return [side[index] if index != NO_SAMPLE else (NO_SAMPLE, self._filler) for side, index in zip(sides, pair)]


@dataclass(frozen=True)
class Lengths:
    """What pairs are grouped by.

    Args:
        forget, retain: tokens of each row, shape (N_f,) and (N_r,).
        step_pairs: pairs that an optimizer step takes, over all micro-batches and ranks.
    """

    forget: np.ndarray
    retain: np.ndarray
    step_pairs: int

    @classmethod
    def of(cls, dataset: PairDataset, step_pairs: int) -> "Lengths":
        """Those of a dataset."""
        sides = (dataset.forget, dataset.retain)
        forget, retain = (np.array([] if side is None else [len(row) for row in side.rows]) for side in sides)
        return cls(forget, retain, step_pairs)


def group_by_length(pairs: list[Pair], lengths: Lengths, generator: np.random.Generator) -> list[Pair]:
    """The same rows, so paired and ordered that a step holds little padding.

    Of the pairs of some consecutive steps, forget rows and retain rows are sorted, longest first, and paired anew; the
    steps then come in a drawn order. An unfilled step stays the last one. However a step is cut, it has the same pairs.

    Example:
        >>> lengths = Lengths(np.array([3, 9, 4, 8]), np.array([2, 7, 1, 6]), step_pairs=2)
        >>> sorted(group_by_length([(0, 1), (1, 2), (2, 3), (3, 0)], lengths, np.random.default_rng(0)))
        [(0, 2), (1, 1), (2, 0), (3, 3)]
    """
    size = lengths.step_pairs
    window = size * max(1, min(len(pairs) // size // _LEAST_WINDOWS, _MOST_STEPS))
    steps = []
    for start in range(0, len(pairs), window):
        forget, retain = zip(*pairs[start : start + window], strict=True)
        sides = (_longest_first(forget, lengths.forget), _longest_first(retain, lengths.retain))
        sorted_pairs = list(zip(*sides, strict=True))
        steps += [sorted_pairs[first : first + size] for first in range(0, len(sorted_pairs), size)]
    tail = [steps.pop()] if len(steps[-1]) < size else []
    return [pair for step in [*(steps[place] for place in generator.permutation(len(steps))), *tail] for pair in step]


def _longest_first(rows: tuple[int, ...], lengths: np.ndarray) -> list[int]:
    return sorted(rows, key=lambda row: -lengths[row] if row != NO_SAMPLE else 0)


class PairBatchSampler(Sampler[list[Pair]]):
    """Batches of pairs for one rank.

    An epoch visits each forget row once, in an order drawn from (seed, epoch). The retain set is walked through in
    orders drawn from (seed, round): each retain row is seen once before any is seen twice, across epochs. The n-th
    optimizer step takes the same pairs however it is cut: batch m of rank r holds the pairs from
    (m * world_size + r) * batch_size on. A ragged tail is filled up with `NO_SAMPLE` pairs, which weigh nothing.

    Args:
        num_forget: rows in the forget set.
        num_retain: rows in the retain set; 0 if there is none.
        batch_size: pairs in a batch on one rank.
        seed: seed of all orders.
        rank, world_size: which share of each batch of the whole world this rank takes.
        drop_last: leave out the tail of an epoch that does not fill a batch on every rank.
        lengths: if given, a step takes rows of similar length, see `group_by_length`.

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
    ):
        self.num_forget, self.num_retain = num_forget, num_retain
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.drop_last, self.lengths = drop_last, lengths
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.num_forget, self.batch_size * self.world_size)
        return whole + int(rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Pair]]:
        pairs = self.pairs(self.epoch)
        for index in range(len(self)):
            start = (index * self.world_size + self.rank) * self.batch_size
            batch = pairs[start : start + self.batch_size]
            yield batch + [(NO_SAMPLE, NO_SAMPLE)] * (self.batch_size - len(batch))

    def pairs(self, epoch: int) -> list[Pair]:
        """All pairs of an epoch, in the order in which the whole world sees them."""
        forget = np.random.default_rng([self.seed, 0, epoch]).permutation(self.num_forget)
        pairs = [(int(row), self._retain_at(epoch * self.num_forget + place)) for place, row in enumerate(forget)]
        if self.lengths is None:
            return pairs
        return group_by_length(pairs, self.lengths, np.random.default_rng([self.seed, 2, epoch]))

    def _retain_at(self, place: int) -> int:
        if not self.num_retain:
            return NO_SAMPLE
        round_number, offset = divmod(place, self.num_retain)
        return int(_retain_order(self.seed, round_number, self.num_retain)[offset])


@lru_cache(maxsize=2)
def _retain_order(seed: int, round_number: int, num_retain: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, round_number]).permutation(num_retain)
