"""Which retain row goes with which forget row: a pure function of (seed, epoch, index)."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset, Sampler

from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, TokenizedRow
from egup_trainer.data.tokenization import RowDataset

Pair = tuple[int, int]
"""Ids of a forget row and of its retain row; `NO_SAMPLE` where there is none."""


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
    ):
        self.num_forget, self.num_retain = num_forget, num_retain
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.drop_last = drop_last
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
        return [(int(row), self._retain_at(epoch * self.num_forget + place)) for place, row in enumerate(forget)]

    def _retain_at(self, place: int) -> int:
        if not self.num_retain:
            return NO_SAMPLE
        round_number, offset = divmod(place, self.num_retain)
        return int(_retain_order(self.seed, round_number, self.num_retain)[offset])


@lru_cache(maxsize=2)
def _retain_order(seed: int, round_number: int, num_retain: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, round_number]).permutation(num_retain)
