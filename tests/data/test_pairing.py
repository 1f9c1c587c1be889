"""Which retain row goes with which forget row: the same for any cut into batches and ranks, and for any resume."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egup_trainer.data.pairing import Lengths, PairBatchSampler, PairDataset, group_by_length
from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, TokenizedRow
from egup_trainer.data.tokenization import RowDataset

SIZES = {
    "num_forget": st.integers(1, 25),
    "num_retain": st.integers(0, 25),
    "batch_size": st.integers(1, 5),
    "world_size": st.integers(1, 4),
    "seed": st.integers(0, 2**32),
    "epoch": st.integers(0, 4),
}
FILLER = (NO_SAMPLE, NO_SAMPLE)


def sampler(num_forget, num_retain, batch_size=2, seed=0, epoch=0, **options):
    made = PairBatchSampler(num_forget, num_retain, batch_size, seed, **options)
    made.set_epoch(epoch)
    return made


def steps(num_forget, num_retain, batch_size, world_size, seed, epoch, drop_last=False):
    """The batches of all ranks, laid side by side step by step."""
    ranks = [
        list(
            sampler(num_forget, num_retain, batch_size, seed, epoch, rank=r, world_size=world_size, drop_last=drop_last)
        )
        for r in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1  # a rank with fewer steps would hang the others
    return [[pair for batch in step for pair in batch] for step in zip(*ranks)]


@settings(max_examples=150, deadline=None)
@given(**SIZES)
def test_any_cut_into_batches_and_ranks_gives_one_sequence(num_forget, num_retain, batch_size, world_size, seed, epoch):
    cut = [pair for step in steps(num_forget, num_retain, batch_size, world_size, seed, epoch) for pair in step]
    whole = [pair for step in steps(num_forget, num_retain, num_forget, 1, seed, epoch) for pair in step]
    assert cut[:num_forget] == whole
    assert set(cut[num_forget:]) <= {FILLER}  # fillers stand at the tail only
    assert len(cut) - num_forget < batch_size * world_size
    assert sorted(forget for forget, _ in whole) == list(range(num_forget))


@settings(max_examples=100, deadline=None)
@given(**SIZES)
def test_every_batch_is_full_and_their_number_is_told_before(
    num_forget, num_retain, batch_size, world_size, seed, epoch
):
    for rank in range(world_size):
        made = sampler(num_forget, num_retain, batch_size, seed, epoch, rank=rank, world_size=world_size)
        batches = list(made)
        assert len(batches) == len(made) == -(-num_forget // (batch_size * world_size))
        assert all(len(batch) == batch_size for batch in batches)


@settings(max_examples=100, deadline=None)
@given(**SIZES)
def test_drop_last_leaves_out_only_the_ragged_tail(num_forget, num_retain, batch_size, world_size, seed, epoch):
    kept = [
        pair
        for step in steps(num_forget, num_retain, batch_size, world_size, seed, epoch, drop_last=True)
        for pair in step
    ]
    whole = sampler(num_forget, num_retain, seed=seed).pairs(epoch)
    share = batch_size * world_size
    assert kept == whole[: num_forget // share * share]
    made = sampler(num_forget, num_retain, batch_size, seed, world_size=world_size, drop_last=True)
    assert len(made) == num_forget // share


@settings(max_examples=100, deadline=None)
@given(num_forget=st.integers(1, 25), num_retain=st.integers(1, 25), seed=st.integers(0, 2**32))
def test_each_retain_row_is_seen_once_before_any_is_seen_twice_across_epochs(num_forget, num_retain, seed):
    made = sampler(num_forget, num_retain, seed=seed)
    seen = Counter()
    for retain in (retain for epoch in range(5) for _, retain in made.pairs(epoch)):
        seen[retain] += 1
        assert set(seen) <= set(range(num_retain))
        fewest = min(seen.values()) if len(seen) == num_retain else 0
        assert max(seen.values()) - fewest <= 1


def test_the_retain_set_is_walked_on_where_the_epoch_before_stopped():
    made = sampler(num_forget=3, num_retain=6)
    retain = [row for epoch in (0, 1) for _, row in made.pairs(epoch)]
    assert sorted(retain) == [0, 1, 2, 3, 4, 5]


@settings(max_examples=50, deadline=None)
@given(**SIZES)
def test_an_order_depends_on_seed_and_epoch_alone(num_forget, num_retain, batch_size, world_size, seed, epoch):
    fresh = list(sampler(num_forget, num_retain, batch_size, seed, epoch, world_size=world_size))
    used = sampler(num_forget, num_retain, batch_size, seed, epoch=9, world_size=world_size)
    list(islice(used, 1))  # a run that broke off in another epoch
    np.random.default_rng(0)
    np.random.seed(1)  # the global generator plays no part
    used.set_epoch(epoch)
    assert list(used) == fresh
    assert list(used) == fresh


def test_seeds_and_epochs_and_rounds_differ():
    def orders(seed, epoch):
        return zip(*sampler(num_forget=40, num_retain=40, seed=seed).pairs(epoch))

    (forget, retain), (next_forget, next_retain), (other_forget, other_retain) = (
        orders(0, 0),
        orders(0, 1),
        orders(1, 0),
    )
    assert len({forget, next_forget, other_forget}) == 3
    assert len({retain, next_retain, other_retain}) == 3
    assert forget != retain  # one generator for both would tie forget row i to retain row i for ever
    assert forget != tuple(range(40))
    assert retain != tuple(range(40))


def test_ranks_of_one_step_see_different_rows():
    (first, second) = (next(iter(sampler(8, 8, batch_size=4, rank=rank, world_size=2))) for rank in (0, 1))
    assert {forget for forget, _ in first}.isdisjoint(forget for forget, _ in second)
    assert {retain for _, retain in first}.isdisjoint(retain for _, retain in second)


def test_a_step_holds_the_same_pairs_however_it_is_divided():
    whole = steps(13, 7, batch_size=4, world_size=1, seed=3, epoch=2)
    assert steps(13, 7, batch_size=2, world_size=2, seed=3, epoch=2) == whole
    assert steps(13, 7, batch_size=1, world_size=4, seed=3, epoch=2) == whole
    micro = steps(13, 7, batch_size=2, world_size=1, seed=3, epoch=2)  # accumulated from two micro-batches
    micro += [[FILLER] * 2] * (len(micro) % 2)
    assert [a + b for a, b in zip(micro[::2], micro[1::2])] == whole


def test_hand_written_shares_of_a_ragged_epoch():
    whole = sampler(5, 3).pairs(0)
    rank0, rank1 = (list(sampler(5, 3, batch_size=2, rank=rank, world_size=2)) for rank in (0, 1))
    assert rank0 == [whole[0:2], [whole[4], FILLER]]
    assert rank1 == [whole[2:4], [FILLER, FILLER]]
    assert [len(list(sampler(5, 3, batch_size=2, rank=r, world_size=2, drop_last=True))) for r in (0, 1)] == [1, 1]


def test_without_a_retain_set_no_pair_has_a_retain_row():
    assert {retain for _, retain in sampler(5, 0).pairs(0)} == {NO_SAMPLE}


def test_ids_are_plain_integers():
    assert {type(index) for pair in sampler(3, 2).pairs(0) for index in pair} == {int}


# The data set that the pairs are looked up in


def rows(*firsts):
    return RowDataset([TokenizedRow(np.array([first, 1]), np.array([IGNORE_INDEX, 1])) for first in firsts])


@pytest.fixture
def pairs():
    return PairDataset(rows(10, 11, 12), rows(20, 21))


def test_a_pair_is_a_forget_row_and_then_a_retain_row(pairs):
    (forget_id, forget), (retain_id, retain) = pairs[2, 1]
    assert (forget_id, retain_id) == (2, 1)
    assert (forget.input_ids[0], retain.input_ids[0]) == (12, 21)


def test_the_length_is_that_of_the_forget_set(pairs):
    assert len(pairs) == 3


def test_a_filler_has_one_token_and_no_label(pairs):
    for index, row in pairs[FILLER]:
        assert index == NO_SAMPLE
        assert row.input_ids.tolist() == [10]
        assert row.labels.tolist() == [IGNORE_INDEX]


def test_without_a_retain_set_an_item_is_the_forget_row_alone():
    ((index, row),) = PairDataset(rows(10, 11), None)[1, NO_SAMPLE]
    assert (index, row.input_ids[0]) == (1, 11)


# Rows of similar length


def grouping(num_forget, num_retain, step_pairs, seed=0):
    """Lengths of made-up rows."""
    draw = np.random.default_rng(seed)
    return Lengths(draw.integers(5, 200, num_forget), draw.integers(5, 200, num_retain), step_pairs)


@settings(max_examples=150, deadline=None)
@given(**SIZES, accumulation=st.integers(1, 3))
def test_grouped_steps_hold_the_same_pairs_however_they_are_cut(
    num_forget, num_retain, batch_size, world_size, seed, epoch, accumulation
):
    size = batch_size * world_size * accumulation
    lengths = grouping(num_forget, num_retain, size)
    cut = [
        list(sampler(num_forget, num_retain, batch_size, seed, epoch, rank=r, world_size=world_size, lengths=lengths))
        for r in range(world_size)
    ]
    sequence = [pair for batches in zip(*cut) for batch in batches for pair in batch if pair != FILLER]
    whole = [pair for batch in sampler(num_forget, num_retain, size, seed, epoch, lengths=lengths) for pair in batch]
    assert sequence == [pair for pair in whole if pair != FILLER]
    plain = sampler(num_forget, num_retain, seed=seed).pairs(epoch)
    for grouped_rows, rows in zip(zip(*sequence), zip(*plain)):
        assert Counter(grouped_rows) == Counter(rows)  # the rows of the epoch, no other


def test_grouped_pairs_by_hand():
    lengths = Lengths(np.array([10, 40, 30, 20, 5]), np.array([1, 4, 3, 2, 9]), step_pairs=2)
    pairs = [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
    ]  # a window of one step: five rows are less than two steps a quarter
    grouped = group_by_length(pairs, lengths, np.random.default_rng(0))
    assert grouped[4:] == [(4, 4)]  # the unfilled step comes last
    assert sorted([grouped[:2], grouped[2:4]]) == [[(1, 1), (0, 0)], [(2, 2), (3, 3)]]  # longest first


def padding(batches, lengths):
    """Share of padding in joined batches."""
    read = held = 0
    for batch in batches:
        tokens = [side[row] for pair in batch for side, row in zip((lengths.forget, lengths.retain), pair)]
        read, held = read + sum(tokens), held + max(tokens) * len(tokens)
    return 1 - read / held


def test_grouping_leaves_little_padding_and_epochs_that_differ():
    lengths = grouping(400, 900, step_pairs=8)
    plain, grouped = (list(sampler(400, 900, 8, lengths=each)) for each in (None, lengths))
    assert padding(plain, lengths) > 0.4
    assert padding(grouped, lengths) < 0.12
    micro = list(sampler(400, 900, 2, lengths=lengths))
    assert padding(micro, lengths) < 0.06
    first, second = ({frozenset(batch) for batch in sampler(400, 900, 8, epoch=e, lengths=lengths)} for e in (0, 1))
    assert not first & second
    longest = [max(lengths.forget[forget] for forget, _ in batch) for batch in grouped]
    assert longest != sorted(longest, reverse=True)  # steps come in a drawn order


def test_forget_rows_alone_are_grouped_too():
    lengths = grouping(40, 0, step_pairs=4)
    batches = list(sampler(40, 0, 4, lengths=lengths))
    assert {retain for batch in batches for _, retain in batch} == {NO_SAMPLE}
    spread = [np.ptp(lengths.forget[[forget for forget, _ in batch]]) for batch in batches]
    assert np.mean(spread) < 0.6 * np.mean([np.ptp(lengths.forget[place : place + 4]) for place in range(0, 40, 4)])
