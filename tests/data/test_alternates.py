"""Alternate answers of forget rows: where they come from, how one is chosen, and what is refused."""

import pytest

from egup_trainer.data.alternates import REFUSALS, alternates_for, check_alternates, read_refusals, refusals_for
from egup_trainer.data.schema import WRITTEN, Message, Row
from egup_trainer.data.tokenization import from_token_columns, tokenize
from egup_trainer.errors import DataError


def ask(number=0, **fields):
    return Row((Message("user", f"Who is number {number}?"),), f"Number {number} is Ada.", **fields)


ROWS = [ask(number) for number in range(40)]


def test_a_refusal_is_chosen_by_seed_and_row_alone():
    assert len(set(REFUSALS)) == len(REFUSALS) == 30
    chosen = refusals_for(ROWS, REFUSALS, seed=4)
    assert chosen == refusals_for(ROWS, REFUSALS, seed=4)
    assert refusals_for(ROWS[:7], REFUSALS, seed=4) == chosen[:7]
    assert chosen != refusals_for(ROWS, REFUSALS, seed=5)
    assert len(set(chosen)) > 15
    assert set(chosen) <= set(REFUSALS)


def test_a_refusal_after_a_prompt_that_is_written_out_begins_as_the_answer_does():
    rows = [Row((Message(WRITTEN, "Ada lives in"),), " Aren."), Row((Message(WRITTEN, "Ada lives in "),), "Aren.")]
    assert refusals_for(rows, ["I pass."], seed=0) == [" I pass.", "I pass."]
    assert refusals_for(rows[:1], ["\nNo."], seed=0) == ["\nNo."]


def test_alternates_come_before_perturbed_answers():
    assert alternates_for([ask(0, alternates=("a",), perturbed=("p",)), ask(1, perturbed=("q",))], 0) == ["a", "q"]
    many = [ask(number, alternates=tuple("abcde")) for number in range(40)]
    chosen = alternates_for(many, seed=1)
    assert set(chosen) == set("abcde")
    assert chosen == alternates_for(many, seed=1) != alternates_for(many, seed=2)


def test_refusals_are_read_line_by_line(tmp_path):
    path = tmp_path / "refusals.txt"
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_refusals(path)
    path.write_text("I pass.\n\n  Kein Wort davon: Ä. \n", encoding="utf-8")
    assert read_refusals(path) == ["I pass.", "Kein Wort davon: Ä."]
    for content, got in [(b"\xff\xfe\xff", "UnicodeDecodeError"), (b"\n  \n", f"no refusal in {path}")]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=got):
            read_refusals(path)


def test_rows_without_an_alternate_answer_or_a_question_are_named():
    with pytest.raises(DataError, match="no alternate answer in row 1 of the forget set"):
        alternates_for([ask(0, alternates=("a",)), ask(1)], seed=0)
    rows = [ask(0, alternates=("a",)), Row((), "A long text.", alternates=("b",))]
    for objective, call in (
        ("dpo", lambda: refusals_for(rows, REFUSALS, 0)),
        ("altpo", lambda: alternates_for(rows, 0)),
    ):
        with pytest.raises(DataError, match=f"a plain text as row 1 of the forget set, but .*objective={objective}"):
            call()
    tokens = from_token_columns([{"input_ids": [1, 2], "labels": [-100, 2]}], "forget set")
    with pytest.raises(DataError, match="tokens without an alternate answer in row 0 of the forget set"):
        check_alternates(tokens, "altpo")


def test_an_alternate_is_tokenized_and_cut_as_an_answer_to_the_rows_own_prompt(tokenizer):
    rows = [ask(1), ask(2)]
    data = tokenize(rows, tokenizer, name="forget set", alternates=["Not known.", "I pass."])
    plain = tokenize([Row(rows[1].prompt, "I pass.")], tokenizer, name="x")
    assert data.rows[1].alternate.key() == plain.rows[0].key()
    assert data.rows[1].key() == tokenize(rows, tokenizer, name="forget set").rows[1].key()
    check_alternates(data, "dpo")
    cut = tokenize([ask(1)], tokenizer, name="forget set", max_length=30, alternates=["I pass. " * 30]).rows[0]
    assert len(cut.alternate) == 30
    assert cut.alternate.truncated
    with pytest.raises(DataError, match="no answer token in the alternate answer in row 0 of the forget set"):
        tokenize([ask(1)], tokenizer, name="forget set", max_length=8, alternates=["I pass."])
