"""Which retain row goes with which forget row: the same for any division into batches and ranks, and for any resume."""

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


def steps(num_forget, num_retain, batch_size, world_size, seed, epoch, **options):
    """The batches of all ranks side by side, step by step."""
    made = [
        sampler(num_forget, num_retain, batch_size, seed, epoch, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    ranks = [list(each) for each in made]
    assert {len(batches) for batches in ranks} == {len(made[0])}  # a rank with fewer steps would hang the others
    assert all(len(batch) == batch_size for batches in ranks for batch in batches)
    return [[pair for batch in step for pair in batch] for step in zip(*ranks)]


def flat(steps):
    return [pair for step in steps for pair in step]


@settings(max_examples=150, deadline=None)
@given(**SIZES)
def test_any_division_into_batches_and_ranks_gives_one_sequence(
    num_forget, num_retain, batch_size, world_size, seed, epoch
):
    divided = flat(steps(num_forget, num_retain, batch_size, world_size, seed, epoch))
    whole = sampler(num_forget, num_retain, seed=seed).pairs(epoch)
    share = batch_size * world_size
    assert divided[:num_forget] == whole
    assert set(divided[num_forget:]) <= {FILLER}  # fillers come only at the end
    assert len(divided) - num_forget < share
    assert sorted(forget for forget, _ in whole) == list(range(num_forget))
    for accumulation in (1, 3):
        options = {"drop_last": True, "accumulation": accumulation}
        kept = flat(steps(num_forget, num_retain, batch_size, world_size, seed, epoch, **options))
        step = share * accumulation
        assert kept == whole[: num_forget // step * step]


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


@settings(max_examples=50, deadline=None)
@given(**SIZES)
def test_an_order_depends_on_seed_and_epoch_alone(num_forget, num_retain, batch_size, world_size, seed, epoch):
    fresh = list(sampler(num_forget, num_retain, batch_size, seed, epoch, world_size=world_size))
    used = sampler(num_forget, num_retain, batch_size, seed, epoch=9, world_size=world_size)
    list(islice(used, 1))  # a run that was interrupted in another epoch
    np.random.seed(1)  # the global generator plays no part
    used.set_epoch(epoch)
    assert list(used) == fresh
    assert list(used) == fresh


def test_seeds_and_epochs_and_rounds_differ():
    orders = [list(zip(*sampler(40, 40, seed=seed).pairs(epoch))) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({forget for forget, _ in orders}) == 3
    assert len({retain for _, retain in orders}) == 3
    forget, retain = orders[0]
    assert forget != retain  # one generator for both would always pair forget row i with retain row i
    assert tuple(range(40)) not in (forget, retain)


def test_a_ragged_epoch_by_hand():
    whole = sampler(5, 3).pairs(0)
    rank0, rank1 = (list(sampler(5, 3, batch_size=2, rank=rank, world_size=2)) for rank in (0, 1))
    assert rank0 == [whole[0:2], [whole[4], FILLER]]
    assert rank1 == [whole[2:4], [FILLER, FILLER]]
    micro = flat(steps(13, 7, batch_size=2, world_size=1, seed=3, epoch=2))  # accumulated from two micro-batches
    assert [*micro, *[FILLER] * 2] == flat(steps(13, 7, batch_size=4, world_size=1, seed=3, epoch=2))
    assert {retain for _, retain in sampler(5, 0).pairs(0)} == {NO_SAMPLE}
    assert {type(index) for pair in whole for index in pair} == {int}


# The data set that pairs are looked up in


def rows(*firsts):
    return RowDataset([TokenizedRow(np.array([first, 1]), np.array([IGNORE_INDEX, 1])) for first in firsts])


def test_a_pair_is_a_forget_row_and_then_a_retain_row():
    pairs = PairDataset(rows(10, 11, 12), rows(20, 21))
    assert len(pairs) == 3
    assert [(index, row.input_ids[0]) for index, row in pairs[2, 1]] == [(2, 12), (1, 21)]
    for index, row in pairs[FILLER]:
        assert (index, row.input_ids.tolist(), row.labels.tolist()) == (NO_SAMPLE, [10], [IGNORE_INDEX])
    ((index, row),) = PairDataset(rows(10, 11), None)[1, NO_SAMPLE]
    assert (index, row.input_ids[0]) == (1, 11)


def test_a_share_of_the_forget_rows_is_read_after_the_retain_row_and_scored_alone():
    forget, retain = rows(*range(10, 30)), rows(*range(50, 70))
    pairs = PairDataset(forget, retain, example_share=0.5, max_length=4)
    every = [(forget_id, retain_id) for forget_id in range(20) for retain_id in range(20)]
    with_example = [pair for pair in every if len(pairs[pair][0][1]) == 4]
    assert 160 < len(with_example) < 240  # of 400
    assert with_example == [pair for pair in every if pairs.has_example(pair)]
    for forget_id, retain_id in with_example:
        (index, row), (_, example) = pairs[forget_id, retain_id]
        assert index == forget_id
        assert row.input_ids.tolist() == [50 + retain_id, 1, 10 + forget_id, 1]
        assert row.labels.tolist() == [IGNORE_INDEX] * 3 + [1]
        assert len(example) == 2  # the retain row stays as it is


def test_no_example_makes_a_row_longer_than_the_model_can_read():
    forget, retain = rows(*range(10, 30)), rows(*range(50, 70))
    for max_length, positions, has_examples in ((4, None, True), (4, 4, True), (None, 3, False), (4, 3, False)):
        pairs = PairDataset(forget, retain, example_share=1.0, max_length=max_length)
        pairs.fit(positions)
        assert pairs.has_example((0, 0)) is has_examples


def test_the_first_token_of_a_plain_text_is_not_scored_after_an_example_either():
    text, example = (TokenizedRow(np.array(ids), np.array(ids)) for ids in ([7, 8, 9], [5, 6]))
    assert text.after(example).labels.tolist() == [IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 8, 9]


@pytest.mark.parametrize(
    ("share", "max_length", "with_retain"), [(0.0, None, True), (1.0, 3, True), (1.0, None, False)]
)
def test_forget_rows_are_read_alone_without_a_share_or_room_or_retain_rows(share, max_length, with_retain):
    pairs = PairDataset(rows(10, 11), rows(20, 21) if with_retain else None, share, max_length)
    assert len(pairs[1, 0 if with_retain else NO_SAMPLE][0][1]) == 2
    if with_retain:
        assert len(pairs[FILLER][0][1]) == 1


# Rows of similar length


def random_lengths(num_forget, num_retain, step_pairs):
    generator = np.random.default_rng(0)
    return Lengths(generator.integers(5, 200, num_forget), generator.integers(5, 200, num_retain), step_pairs)


@settings(max_examples=150, deadline=None)
@given(**SIZES, accumulation=st.integers(1, 3))
def test_grouped_steps_hold_the_same_pairs_however_they_are_divided(
    num_forget, num_retain, batch_size, world_size, seed, epoch, accumulation
):
    size = batch_size * world_size * accumulation
    lengths = random_lengths(num_forget, num_retain, size)
    divided = flat(steps(num_forget, num_retain, batch_size, world_size, seed, epoch, lengths=lengths))
    sequence = [pair for pair in divided if pair != FILLER]
    whole = flat(steps(num_forget, num_retain, size, 1, seed, epoch, lengths=lengths))
    assert sequence == [pair for pair in whole if pair != FILLER]
    plain = sampler(num_forget, num_retain, seed=seed).pairs(epoch)
    for grouped_rows, plain_rows in zip(zip(*sequence), zip(*plain)):
        assert Counter(grouped_rows) == Counter(plain_rows)  # the rows of the epoch, and no others


def test_grouped_pairs_by_hand():
    lengths = Lengths(np.array([10, 40, 30, 20, 5]), np.array([1, 4, 3, 2, 9]), step_pairs=2)
    pairs = [(index, index) for index in range(5)]  # a window of one step, as an epoch has less than eight
    grouped = group_by_length(pairs, lengths, np.random.default_rng(0))
    assert grouped[4:] == [(4, 4)]  # the incomplete step comes last
    assert sorted([grouped[:2], grouped[2:4]]) == [[(1, 1), (0, 0)], [(2, 2), (3, 3)]]  # longest first


def padding(batches, lengths):
    """Share of padding in joined batches."""
    read = held = 0
    for batch in batches:
        tokens = [side[row] for pair in batch for side, row in zip((lengths.forget, lengths.retain), pair)]
        read, held = read + sum(tokens), held + max(tokens) * len(tokens)
    return 1 - read / held


def test_grouping_leaves_little_padding_and_epochs_that_differ():
    lengths = random_lengths(400, 900, step_pairs=8)
    plain, grouped = (list(sampler(400, 900, 8, lengths=each)) for each in (None, lengths))
    assert padding(plain, lengths) > 0.4
    assert padding(grouped, lengths) < 0.12
    assert padding(sampler(400, 900, 2, lengths=lengths), lengths) < 0.06
    first, second = ({frozenset(batch) for batch in sampler(400, 900, 8, epoch=e, lengths=lengths)} for e in (0, 1))
    assert not first & second
    longest = [max(lengths.forget[forget] for forget, _ in batch) for batch in grouped]
    assert longest != sorted(longest, reverse=True)  # steps come in a random order


def test_the_order_of_steps_differs_between_epochs():
    lengths, orders = random_lengths(28, 0, step_pairs=4), []  # each of the 7 steps is a window
    for epoch in (0, 1):
        plain, grouped = (list(map(frozenset, sampler(28, 0, 4, 0, epoch, lengths=each))) for each in (None, lengths))
        orders.append([plain.index(step) for step in grouped])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(7))
    assert orders[0] != orders[1]


def test_forget_rows_alone_are_grouped_too():
    lengths = random_lengths(40, 0, step_pairs=4)
    batches = list(sampler(40, 0, 4, lengths=lengths))
    assert {retain for batch in batches for _, retain in batch} == {NO_SAMPLE}
    spread = [np.ptp(lengths.forget[[forget for forget, _ in batch]]) for batch in batches]
    assert np.mean(spread) < 0.6 * np.mean([np.ptp(lengths.forget[start : start + 4]) for start in range(0, 40, 4)])
