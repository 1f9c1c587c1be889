"""Alternate answers of forget rows: where they come from, that a draw is of (seed, row), and what is refused."""

import pytest

from egup_trainer.data.alternates import (
    REFUSALS,
    alternates_for,
    check_alternates,
    read_refusals,
    refusals_for,
)
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import from_token_columns, tokenize
from egup_trainer.errors import DataError


def ask(number=0, **fields):
    return Row((Message("user", f"Who is number {number}?"),), f"Number {number} is Ada.", **fields)


ROWS = [ask(number) for number in range(40)]


def test_the_package_has_refusals_of_its_own_all_different():
    assert len(set(REFUSALS)) == len(REFUSALS) == 30
    assert all(text == text.strip() and text.endswith(".") for text in REFUSALS)


def test_a_refusal_is_drawn_for_seed_and_row_alone():
    drawn = refusals_for(ROWS, REFUSALS, seed=4)
    assert drawn == refusals_for(ROWS, REFUSALS, seed=4)
    assert refusals_for(ROWS[:7], REFUSALS, seed=4) == drawn[:7]
    assert drawn != refusals_for(ROWS, REFUSALS, seed=5)
    assert len(set(drawn)) > 15
    assert set(drawn) <= set(REFUSALS)


def test_refusals_are_read_one_a_line(tmp_path):
    path = tmp_path / "refusals.txt"
    path.write_text("I pass.\n\n  Kein Wort davon: Ä. \n", encoding="utf-8")
    assert read_refusals(path) == ["I pass.", "Kein Wort davon: Ä."]


@pytest.mark.parametrize(("content", "got"), [(None, "FileNotFoundError"), (b"\xff\xfe\xff", "UnicodeDecodeError")])
def test_a_file_that_cannot_be_read(content, got, tmp_path):
    path = tmp_path / "refusals.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_refusals(path)
    assert str(caught.value) == (
        f"Got no refusals from {path} ({got}), but expected a UTF-8 text file with one refusal per line. "
        "Check --idk_answers."
    )


def test_a_file_without_a_refusal(tmp_path):
    path = tmp_path / "refusals.txt"
    path.write_text("\n  \n")
    with pytest.raises(DataError) as caught:
        read_refusals(path)
    assert str(caught.value) == f"Got no refusal in {path}, but expected one per line. Check --idk_answers."


def test_alternates_come_before_perturbed_answers():
    rows = [ask(0, alternates=("a",), perturbed=("p",)), ask(1, perturbed=("q",))]
    assert alternates_for(rows, seed=0) == ["a", "q"]
    many = [ask(number, alternates=tuple("abcde")) for number in range(40)]
    drawn = alternates_for(many, seed=1)
    assert set(drawn) == set("abcde")
    assert drawn == alternates_for(many, seed=1) != alternates_for(many, seed=2)


def test_a_row_without_an_alternate_is_named():
    with pytest.raises(DataError) as caught:
        alternates_for([ask(0, alternates=("a",)), ask(1)], seed=0)
    assert str(caught.value) == (
        "Got no alternate answer in row 1 of the forget set, but expected one in every forget row, for "
        "objective=altpo. "
        "Give "
        "a column alternate_answer (or perturbed_answer), or use --objective dpo."
    )


@pytest.mark.parametrize("objective", ["dpo", "altpo"])
def test_a_plain_text_asks_nothing(objective):
    rows = [ask(0, alternates=("a",)), Row((), "A long text.", alternates=("b",))]
    with pytest.raises(DataError) as caught:
        refusals_for(rows, REFUSALS, 0) if objective == "dpo" else alternates_for(rows, 0)
    assert str(caught.value) == (
        f"Got a plain text as row 1 of the forget set, but expected a question, to which objective={objective} knows "
        "another "
        "answer. Use another objective for plain texts."
    )


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Who?", "answer": "Ada."},
        {"prompt": "Who?", "completion": "Ada."},
        {"prompt": [{"role": "user", "content": "Who?"}], "completion": [{"role": "assistant", "content": "Ada."}]},
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]},
    ],
    ids=["question", "prompt", "turns", "messages"],
)
@pytest.mark.parametrize("column", ["alternate_answer", "alternate"])
@pytest.mark.parametrize(("value", "expected"), [("Bo.", ("Bo.",)), (["Bo.", "Cleo."], ("Bo.", "Cleo.")), (None, ())])
def test_data_may_have_alternates_in_each_layout(record, column, value, expected):
    row = load_rows([{**record, column: value}])[0]
    assert row.alternates == expected
    assert row.answer == "Ada."


def test_an_alternate_that_is_no_text_is_refused():
    with pytest.raises(DataError) as caught:
        load_rows([{"question": "Who?", "answer": "Ada.", "alternate_answer": [3]}])
    assert str(caught.value) == (
        "Got a int as alternate_answer in row 0 of the given data set, but expected text. Fill in or remove that row."
    )


def test_an_alternate_is_tokenized_as_an_answer_to_the_rows_own_prompt(tokenizer):
    rows = [ask(1), ask(2)]
    data = tokenize(rows, tokenizer, name="forget set", alternates=["Not known.", "I pass."])
    plain = tokenize([Row(rows[1].prompt, "I pass.")], tokenizer, name="x")
    assert data.rows[1].alternate.key() == plain.rows[0].key()
    assert data.rows[1].key() == tokenize(rows, tokenizer, name="forget set").rows[1].key()
    check_alternates(data, "dpo")


def test_an_alternate_is_cut_as_its_row_is(tokenizer):
    data = tokenize([ask(1)], tokenizer, name="forget set", max_length=30, alternates=["I pass. " * 30])
    assert len(data.rows[0].alternate) == 30
    assert data.rows[0].alternate.truncated
    with pytest.raises(DataError) as caught:
        tokenize([ask(1)], tokenizer, name="forget set", max_length=8, alternates=["I pass."])
    assert "no answer token in the alternate answer in row 0 of the forget set" in str(caught.value)


def test_tokens_have_no_alternate():
    with pytest.raises(DataError) as caught:
        check_alternates(from_token_columns([{"input_ids": [1, 2], "labels": [-100, 2]}], "forget set"), "altpo")
    assert str(caught.value) == (
        "Got tokens without an alternate answer in row 0 of the forget set, but expected text, to which "
        "objective=altpo "
        "can "
        "add one. Give the rows as question + answer."
    )
