"""Rows -> padded tensors: masks from lengths, padding never scored, the parts of a batch in their order."""

import numpy as np
import pytest
import torch

from egup_trainer.data.collator import PairCollator, Part, RowCollator, parts_of
from egup_trainer.data.schema import NO_SAMPLE, TokenizedRow
from egup_trainer.errors import DataError


class Padding:
    """All that a collator reads of a tokenizer."""

    def __init__(self, pad=None, eos=None):
        self.pad_token_id, self.eos_token_id = pad, eos


def row(ids, labels, **others):
    return TokenizedRow(np.array(ids, dtype=np.int32), np.array(labels, dtype=np.int32), **others)


def as_lists(batch):
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    return {name: tensor.tolist() for name, tensor in batch.items()}


FIRST, SECOND, THIRD = row([5, 6, 7], [-100, 6, 7]), row([8, 9], [-100, 9]), row([4], [-100])


def test_a_real_token_equal_to_the_padding_is_attended_and_scored():
    batch = RowCollator(Padding(pad=7, eos=7))([(11, FIRST), (3, row([7, 8], [7, 8])), (2, THIRD)])
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


def test_a_batch_does_not_share_memory_with_its_rows():
    RowCollator(None)([(0, FIRST)])["input_ids"].fill_(0)
    assert FIRST.input_ids.tolist() == [5, 6, 7]


# Pairs

PAIRS = [[(4, FIRST), (9, SECOND)], [(2, SECOND), (7, THIRD)]]


def test_forget_rows_come_before_retain_rows():
    batch = PairCollator(RowCollator(Padding(pad=0)))(PAIRS)
    assert as_lists(batch) == {
        "input_ids": [[5, 6, 7], [8, 9, 0], [8, 9, 0], [4, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]],
        "labels": [[-100, 6, 7], [-100, 9, -100], [-100, 9, -100], [-100, -100, -100]],
        "forget_ids": [4, 2],
        "retain_ids": [9, 7],
    }


def test_paraphrases_and_alternates_replace_the_answers_of_their_forget_rows():
    """In the order of `Part`; a filler stands for itself, and a row without one is refused."""
    others = {
        "paraphrase": row([5, 1, 2, 3], [-100, 1, 2, 3]),
        "alternate": row([5, 1, 2], [-100, 1, 2]),
    }
    filler = (NO_SAMPLE, THIRD)
    pairs = [[(4, row([5, 6], [-100, 6], **others)), (9, SECOND)], [filler, filler]]
    collate = PairCollator(RowCollator(Padding(pad=0)), positives="paraphrase", with_alternates=True)
    batch = collate(pairs)
    parts = parts_of(batch)
    assert list(parts) == [Part.FORGET, Part.RETAIN, Part.ALTERNATE, Part.POSITIVE]
    assert batch["input_ids"][parts[Part.ALTERNATE]].tolist() == [[5, 1, 2, 0], [4, 0, 0, 0]]
    assert batch["labels"][parts[Part.ALTERNATE]].tolist() == [[-100, 1, 2, -100], [-100] * 4]
    assert batch["labels"][parts[Part.POSITIVE]].tolist() == [[-100, 1, 2, 3], [-100] * 4]
    assert batch["retain_ids"].tolist() == [9, NO_SAMPLE]
    for part in (Part.FORGET, Part.ALTERNATE, Part.POSITIVE):
        assert batch[part].tolist() == [4, NO_SAMPLE]
    with pytest.raises(DataError, match="forget sample 4 without"):
        collate(PAIRS)
