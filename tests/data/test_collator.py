"""Rows -> padded tensors: masks from lengths, padding never scored, the halves in their order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egup_trainer.data.collator import PairCollator, Part, RowCollator, parts_of
from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, Message, Row, TokenizedRow
from egup_trainer.data.tokenization import tokenize


class Padding:
    """All that a collator asks of a tokenizer."""

    def __init__(self, pad=None, eos=None):
        self.pad_token_id, self.eos_token_id = pad, eos


def row(ids, labels, **others):
    return TokenizedRow(np.array(ids, dtype=np.int32), np.array(labels, dtype=np.int32), **others)


def as_lists(batch):
    return {name: tensor.tolist() for name, tensor in batch.items()}


FIRST, SECOND, THIRD = row([5, 6, 7], [-100, 6, 7]), row([8, 9], [-100, 9]), row([4], [-100])


def test_rows_are_padded_on_the_right_to_the_longest():
    batch = RowCollator(Padding(pad=0))([(11, FIRST), (3, SECOND)])
    assert as_lists(batch) == {
        "input_ids": [[5, 6, 7], [8, 9, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[-100, 6, 7], [-100, 9, -100]],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_a_real_token_equal_to_the_padding_is_attended_and_scored():
    batch = RowCollator(Padding(pad=7, eos=7))([(0, FIRST), (1, row([7, 8], [7, 8])), (2, THIRD)])
    assert as_lists(batch) == {
        "input_ids": [[5, 6, 7], [7, 8, 7], [4, 7, 7]],
        "attention_mask": [[1, 1, 1], [1, 1, 0], [1, 0, 0]],
        "labels": [[-100, 6, 7], [7, 8, -100], [-100, -100, -100]],
    }


@pytest.mark.parametrize(
    ("tokenizer", "padding"),
    [
        (Padding(pad=3, eos=2), 2),
        (Padding(pad=3, eos=0), 0),  # 0 is an id, not "none"
        (Padding(eos=2), 2),
        (Padding(pad=3), 3),
        (Padding(), 0),
        (None, 0),
    ],
)
def test_the_padding_is_the_end_of_the_tokenizer_or_its_padding_or_zero(tokenizer, padding):
    assert RowCollator(tokenizer)([(0, SECOND), (1, THIRD)])["input_ids"].tolist() == [[8, 9], [4, padding]]


ROWS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=6).flatmap(
    lambda rows: st.tuples(
        *[
            st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)).map(
                lambda kept, ids=ids: row(ids, [i if keep else IGNORE_INDEX for i, keep in zip(ids, kept)])
            )
            for ids in rows
        ]
    )
)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, pad=st.integers(0, 9))
def test_every_row_comes_back_and_padding_is_never_scored(rows, pad):
    batch = RowCollator(Padding(pad=pad))(list(enumerate(rows)))
    assert {tuple(tensor.shape) for tensor in batch.values()} == {(len(rows), max(len(each) for each in rows))}
    for place, each in enumerate(rows):
        ids, mask, labels = (batch[name][place] for name in ("input_ids", "attention_mask", "labels"))
        size = len(each)
        assert ids[:size].tolist() == each.input_ids.tolist()
        assert labels[:size].tolist() == each.labels.tolist()
        assert mask.tolist() == [1] * size + [0] * (len(mask) - size)
        assert set(labels[size:].tolist()) <= {IGNORE_INDEX}
        assert set(ids[size:].tolist()) <= {pad}


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, data=st.data())
def test_rows_in_another_order_give_the_batch_in_that_order(rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    collate = RowCollator(Padding(pad=1))
    batch, permuted = (collate([(i, rows[i]) for i in places]) for places in (range(len(rows)), order))
    for name in batch:
        assert torch.equal(permuted[name], batch[name][list(order)])


def test_a_batch_does_not_share_memory_with_its_rows():
    ids = FIRST.input_ids.copy()
    RowCollator(None)([(0, FIRST)])["input_ids"].fill_(0)
    assert FIRST.input_ids.tolist() == ids.tolist()


# Pairs


PAIRS = [[(4, FIRST), (9, SECOND)], [(2, SECOND), (7, THIRD)]]


def test_forget_rows_stand_before_retain_rows():
    batch = PairCollator(RowCollator(Padding(pad=0)))(PAIRS)
    assert as_lists(batch) == {
        "input_ids": [[5, 6, 7], [8, 9, 0], [8, 9, 0], [4, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]],
        "labels": [[-100, 6, 7], [-100, 9, -100], [-100, 9, -100], [-100, -100, -100]],
        "forget_ids": [4, 2],
        "retain_ids": [9, 7],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_without_retain_rows_only_forget_rows_are_in_the_batch():
    batch = PairCollator(RowCollator(None), with_retain=False)([[(4, FIRST)], [(2, SECOND)]])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch["forget_ids"].tolist() == [4, 2]
    assert "retain_ids" not in batch
    assert "positive_ids" not in batch


def test_a_second_view_repeats_each_forget_row_after_the_retain_rows():
    batch = PairCollator(RowCollator(None), positives="views")(PAIRS)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0], [8, 9, 0], [4, 0, 0], [5, 6, 7], [8, 9, 0]]
    assert torch.equal(batch["labels"][4:], batch["labels"][:2])
    assert batch["positive_ids"].tolist() == batch["forget_ids"].tolist() == [4, 2]


def test_a_paraphrase_stands_for_the_second_view():
    pairs = [
        [(4, row([5, 6], [-100, 6], paraphrase=row([5, 1, 2, 3], [-100, 1, 2, 3]))), (9, SECOND)],
        [(2, row([8, 9], [-100, 9], paraphrase=row([8, 3], [-100, 3]))), (7, THIRD)],
    ]
    batch = PairCollator(RowCollator(Padding(pad=0)), positives="paraphrase")(pairs)
    assert batch["input_ids"].tolist() == [
        [5, 6, 0, 0],
        [8, 9, 0, 0],
        [8, 9, 0, 0],
        [4, 0, 0, 0],
        [5, 1, 2, 3],
        [8, 3, 0, 0],
    ]
    assert batch["labels"][4:].tolist() == [[-100, 1, 2, 3], [-100, 3, -100, -100]]
    assert batch["positive_ids"].tolist() == [4, 2]


@pytest.mark.parametrize("positives", ["views", "paraphrase"])
def test_a_filler_is_its_own_second_view_and_scores_nothing(positives):
    filler = (NO_SAMPLE, THIRD)
    real = row([5, 6], [-100, 6], paraphrase=SECOND)
    batch = PairCollator(RowCollator(None), positives=positives)([[(4, real), (9, SECOND)], [filler, filler]])
    assert batch["forget_ids"].tolist() == batch["positive_ids"].tolist() == [4, NO_SAMPLE]
    assert batch["retain_ids"].tolist() == [9, NO_SAMPLE]
    assert batch["labels"][[1, 3, 5]].tolist() == [[-100, -100]] * 3
    assert batch["attention_mask"].sum(dim=1).tolist() == [2, 1, 2, 1, 2, 1]


def test_tokenized_rows_fit_the_collator(tokenizer):
    rows = [Row((Message("user", "Who?"),), answer) for answer in ("Ada", "Ada Lorn lives in Aren")]
    data = tokenize(rows, tokenizer, name="forget set")
    batch = RowCollator(tokenizer)([data[0], data[1]])
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(data[0][1]), len(data[1][1])]
    ends = batch["labels"] == tokenizer.eos_token_id  # padding is that id too, and must not be scored
    assert ends.sum(dim=1).tolist() == [1, 1]


def test_alternates_stand_between_retain_rows_and_second_views():
    pairs = [
        [(4, row([5, 6], [-100, 6], alternate=row([5, 1, 2], [-100, 1, 2]))), (9, SECOND)],
        [(NO_SAMPLE, THIRD), (NO_SAMPLE, THIRD)],
    ]
    batch = PairCollator(RowCollator(Padding(pad=0)), positives="views", with_alternates=True)(pairs)
    assert batch["input_ids"].tolist() == [
        [5, 6, 0],
        [4, 0, 0],
        [8, 9, 0],
        [4, 0, 0],
        [5, 1, 2],
        [4, 0, 0],
        [5, 6, 0],
        [4, 0, 0],
    ]
    assert batch["labels"][4].tolist() == [-100, 1, 2]
    assert batch["alternate_ids"].tolist() == batch["forget_ids"].tolist() == [4, NO_SAMPLE]
    assert list(parts_of(batch)) == [Part.FORGET, Part.RETAIN, Part.ALTERNATE, Part.POSITIVE]
    assert parts_of(batch)[Part.ALTERNATE] == slice(4, 6)


def test_parts_that_a_batch_lacks_take_no_rows():
    batch = PairCollator(RowCollator(None), with_retain=False, positives="views")([[(4, FIRST)], [(2, SECOND)]])
    assert parts_of(batch) == {Part.FORGET: slice(0, 2), Part.POSITIVE: slice(2, 4)}
    assert parts_of(batch)["positive_ids"] == slice(2, 4)
