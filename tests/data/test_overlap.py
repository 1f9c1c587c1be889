"""Rows, by prompt and answer, that are in two sets: found in rows and in tokenized rows alike."""

import unicodedata
from dataclasses import replace

import pytest

from egup_trainer.data.overlap import keep_apart, keep_apart_from_forget
from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import NO_SOURCE, Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.errors import DataError


def qa(question, answer):
    return Row((Message("user", question),), answer)


FORGET = [qa("Who?", "Ada."), qa("Where?", "Here."), qa("Who?", "Ada.")]  # twice in one set is allowed
RETAIN = [qa("When?", "Now."), qa("Who?", "Here."), qa("Where?", "Here."), qa("Why?", "So.")]


@pytest.fixture(params=["rows", "tokenized"])
def of(request, tokenizer):
    """of(rows): the rows, or the same as a `RowDataset`, of which each row makes several samples."""
    if request.param == "rows":
        return lambda rows: rows
    return lambda rows: tokenize(rows, tokenizer, name="x", max_length=8) if rows else RowDataset([])


def test_a_row_in_both_sets_is_refused_or_dropped(of, caplog):
    with pytest.raises(DataError, match="row 1 of the forget set is row 2 of the retain set") as caught:
        keep_apart(of(FORGET), "forget set", of(RETAIN), "retain set", drop=False)
    assert "--drop_overlap" in caught.value.fix
    kept = keep_apart(of(FORGET), "forget set", of(RETAIN), "retain set", drop=True)
    assert caplog.messages == ["1 of 4 rows of the retain set are left out: they are in the forget set, too."]
    expected = of([*RETAIN[:2], RETAIN[3]])
    if isinstance(kept, RowDataset):
        kept, expected = ([row.key() for row in each.rows] for each in (kept, expected))
    assert kept == expected
    with pytest.raises(DataError, match="no row in the proxy set that is not in the forget set"):
        keep_apart(of(FORGET), "forget set", of(FORGET[:1]), "proxy set", drop=True)


def test_sets_that_share_questions_or_answers_are_apart(of):
    for others in ([*RETAIN[:2], RETAIN[3]], []):
        second = of(others)
        assert keep_apart(of(FORGET), "forget set", second, "retain set", drop=False) is second


def test_samples_that_were_made_by_hand_have_no_source_and_are_compared_all_the_same(of, tokenizer):
    def without_source(rows):
        return RowDataset([replace(row, source=NO_SOURCE) for row in tokenize(rows, tokenizer, name="x").rows])

    first, apart = without_source(FORGET), without_source([*RETAIN[:2], RETAIN[3]])
    assert keep_apart(first, "forget set", apart, "retain set", drop=False) is apart
    with pytest.raises(DataError, match="row 1 of the forget set is row 2 of the retain set"):
        keep_apart(first, "forget set", without_source(RETAIN), "retain set", drop=False)


def test_white_space_and_composition_do_not_make_another_row(of):
    forget, same = of([qa("Où ?", "Café noir.")]), of([qa(" Où  ?", unicodedata.normalize("NFD", "Café\u00a0noir. "))])
    with pytest.raises(DataError, match="row 0 of the forget set is row 0 of the retain set"):
        keep_apart(forget, "forget set", same, "retain set", drop=False)


def test_rows_that_the_model_reads_alike_are_the_same(tokenizer):
    """Whatever their texts: a tokenizer may write all letters small, and a template may leave turns out."""
    forget, retain = (tokenize([qa("Who?", "Ada.")], tokenizer, name="x") for _ in range(2))
    row = retain.rows[0]
    retain.rows[0] = replace(row, source=replace(row.source, text_key=qa("WHO?", "Ada.").text_key()))
    with pytest.raises(DataError, match="row 0 of the forget set is row 0 of the retain set"):
        keep_apart(forget, "forget set", retain, "retain set", drop=False)


def test_sets_by_name():
    kept = keep_apart_from_forget(forget=FORGET, retain=RETAIN, holdout=None, drop=True)
    assert kept == {"forget": FORGET, "retain": [*RETAIN[:2], RETAIN[3]]}
    with pytest.raises(DataError, match="row 1 of the forget set is row 2 of the retain set"):
        keep_apart_from_forget(forget=FORGET, holdout=RETAIN[:1], retain=RETAIN, drop=False)


def test_whole_rows_are_compared(tokenizer):
    """The same tokens with another boundary, and long texts with equal ends, are other rows."""
    empty = Template(user="", assistant=" ")
    cases = [
        ([qa("w1", "w2 w3")], [qa("w1 w2", "w3")], {"template": empty}),
        ([Row((), "w1 w2 w3 w9")], [Row((), "w4 w5 w6 w9")], {"max_length": 4}),
    ]
    for forget, retain, options in cases:
        first, second = (tokenize(rows, tokenizer, name="x", **options) for rows in (forget, retain))
        assert keep_apart(first, "forget set", second, "retain set", drop=False) is second


def test_the_split_tofu_sets_are_apart(tofu, tokenizer):
    forget = tokenize(load_rows(tofu("forget01")), tokenizer, name="forget set")
    retain = tokenize(load_rows(tofu("retain_perturbed")), tokenizer, name="retain set")
    assert keep_apart(forget, "forget set", retain, "retain set", drop=False) is retain
