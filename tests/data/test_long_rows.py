"""Rows longer than the model reads at once: each answer token is scored once, or what is left out is counted."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import qa_rows
from hypothesis import given
from hypothesis import strategies as st

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import IGNORE_INDEX, Message, OnLongRow, Row, RowSource, TokenizedRow
from egup_trainer.data.tokenization import fit, from_token_columns, tokenize
from egup_trainer.errors import DataError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows

WORDS = " ".join(f"word{number}" for number in range(60))
LONG, SHORT = Row((Message("user", "Where?"),), WORDS), Row((Message("user", "Who?"),), "Bo")


def a_row(prompt: int, answer: int) -> TokenizedRow:
    """A row whose ids are their own places, so that a window shows which tokens it holds."""
    ids = np.arange(prompt + answer, dtype=np.int32)
    row = TokenizedRow(ids, np.where(ids < prompt, IGNORE_INDEX, ids).astype(np.int32))
    return TokenizedRow(row.input_ids, row.labels, source=RowSource.of(0, row))


def windows_of(prompt, answer, max_length):
    return fit(a_row(prompt, answer), max_length, OnLongRow.WINDOW, "row 0 of the forget set", is_plain=False)


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        (2, 9, [([0, 1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7]), ([0, 1, 5, 6, 7, 8, 9, 10], [8, 9, 10])]),
        # A prompt of more than half a window appears only in the first one.
        (6, 6, [([0, 1, 2, 3, 4, 5, 6, 7], [6, 7]), ([4, 5, 6, 7, 8, 9, 10, 11], [8, 9, 10, 11])]),
        # Of a prompt that is longer than a window, the end is read.
        (20, 5, [([16, 17, 18, 19, 20, 21, 22, 23], [20, 21, 22, 23]), ([17, 18, 19, 20, 21, 22, 23, 24], [24])]),
    ],
)
def test_windows_by_hand(prompt, answer, expected):
    found = [(row.input_ids.tolist(), row.labels[row.is_scored].tolist()) for row in windows_of(prompt, answer, 8)]
    assert found == expected


@given(st.integers(1, 40), st.integers(1, 60), st.integers(2, 30))
def test_each_answer_token_is_scored_once_and_after_a_token_of_its_row(prompt, answer, max_length):
    whole, samples = a_row(prompt, answer), windows_of(prompt, answer, max_length)
    scored = Counter(int(token) for row in samples for token in row.labels[row.is_scored])
    assert scored == Counter(range(prompt, prompt + answer))
    for row in samples:
        assert (len(row) <= max_length, row.source, row.truncated) == (True, whole.source, False)
        assert (np.diff(row.input_ids) > 0).all()
        assert not row.is_scored[0]
        if prompt <= max_length // 2:
            assert row.input_ids[:prompt].tolist() == list(range(prompt))


def test_the_three_ways_with_a_long_row(tokenizer):
    whole = tokenize([LONG], tokenizer, name="forget set").rows[0]
    cut = tokenize([SHORT, LONG], tokenizer, name="forget set", max_length=64, on_long_row=OnLongRow.CUT)
    read = tokenize([SHORT, LONG], tokenizer, name="forget set", max_length=64)
    assert (len(cut), cut.cut, cut.in_windows) == (2, 1, 0)
    assert (read.cut, read.in_windows, set(read.owners)) == (0, 1, {0, 1})
    scored = [row.labels[row.is_scored] for row in read.rows[1:]]
    assert np.concatenate(scored).tolist() == whole.labels[whole.is_scored].tolist()
    assert all(len(row) <= 64 for row in read.rows)
    assert [row.is_closed for row in read.rows[1:]] == [False] * (len(read) - 2) + [True]
    assert {row.source.key for row in read.rows[1:]} == {whole.source.key}
    with pytest.raises(
        DataError, match=rf"{len(whole)} tokens in row 1 of the forget set, but .* --max_length {len(whole)}"
    ):
        tokenize([SHORT, LONG], tokenizer, name="forget set", max_length=64, on_long_row=OnLongRow.ERROR)
    assert len(tokenize([LONG], tokenizer, name="x", max_length=len(whole), on_long_row=OnLongRow.ERROR)) == 1


def test_a_prompt_longer_than_a_window_leaves_no_row_out(tokenizer):
    row = Row((Message("user", WORDS),), "Bo lives in Aren")
    whole = tokenize([row], tokenizer, name="forget set").rows[0]
    read = tokenize([row], tokenizer, name="forget set", max_length=16)
    assert np.concatenate([each.labels[each.is_scored] for each in read.rows]).tolist() == (
        whole.labels[whole.is_scored].tolist()
    )
    with pytest.raises(DataError, match="no answer token in row 0 of the forget set, of whose"):
        tokenize([row], tokenizer, name="forget set", max_length=16, on_long_row=OnLongRow.CUT)


def test_what_cannot_be_windowed_is_cut_and_counted(tokenizer):
    row = Row((Message("user", "Where?"),), "Aren", paraphrase=WORDS)
    others = {"alternates": [WORDS, "Bryle"], "with_paraphrases": True}
    read = tokenize([row, row], tokenizer, name="forget set", max_length=64, **others)
    assert (len(read), read.cut, read.in_windows) == (2, 2, 0)
    assert len(read.rows[0].paraphrase) == len(read.rows[0].alternate) == 64
    options = {"on_long_row": OnLongRow.ERROR, "with_paraphrases": True}
    with pytest.raises(DataError, match="tokens in row 0 of the forget set, but expected at most max_length=64"):
        tokenize([row], tokenizer, name="forget set", max_length=64, **options)


def test_a_paraphrase_that_nothing_reads_is_neither_tokenized_nor_too_long(tokenizer):
    row = Row((Message("user", WORDS),), "Aren", paraphrase=f"{WORDS} {WORDS}")
    plain = Row(row.prompt, row.answer)
    for options in ({}, {"max_length": 16}):
        read, expected = (tokenize([each], tokenizer, name="forget set", **options) for each in (row, plain))
        assert [each.key() for each in read.rows] == [each.key() for each in expected.rows]
        assert (read.cut, read.rows[0].paraphrase) == (0, None)


def test_token_rows_are_windowed_alike():
    ids = list(range(1, 31))
    labels = [-100] * 4 + ids[4:20] + [-100] * 10
    read = from_token_columns([{"input_ids": ids, "labels": labels}], "forget set", 8)
    assert np.concatenate([row.labels[row.is_scored] for row in read.rows]).tolist() == ids[4:20]
    assert (read.cut, read.in_windows) == (0, 1)


def test_a_row_of_a_hundred_thousand_tokens_is_scored_in_windows(make_model, tokenizer):
    answer = " ".join(row["answer"] for row in qa_rows(0, 8000))
    long = [Row((Message("user", "Who lives where?"),), answer), SHORT]
    whole = tokenize(long, tokenizer, name="forget set").rows[0]
    rows = tokenize(long, tokenizer, name="forget set", max_length=128)
    windows = rows.rows[:-1]
    assert (len(whole) > 100_000, len(windows) > 1000, rows.in_windows) == (True, True, 1)
    assert np.concatenate([row.labels[row.is_scored] for row in windows]).tolist() == (
        whole.labels[whole.is_scored].tolist()
    )
    model = make_model().eval()
    found = score_rows(model, AnswerReader(model), rows, RowCollator(tokenizer), batch_size=64)
    for place in (0, len(windows) // 2, len(windows)):
        row = rows.rows[place]
        ids, labels = (torch.from_numpy(each).long()[None] for each in (row.input_ids, row.labels))
        assert found.mean_nll[place].item() == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), rel=1e-4)
    nll = found.nll_of(torch.tensor(rows.owners))
    scored = torch.tensor([int(row.is_scored.sum()) for row in windows])
    by_hand = (found.mean_nll[:-1].double() * scored).sum() / (len(whole) - whole.is_scored.argmax())
    assert nll.tolist() == pytest.approx([by_hand.item(), found.mean_nll[-1].item()], rel=1e-4)
