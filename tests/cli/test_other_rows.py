"""`egup evaluate` says when the forget rows are not those of the model's record."""

import json

import pytest
from fixtures_trainer import qa_rows

from egup_trainer.cli.evaluate import _other_rows
from egup_trainer.data.layouts import to_row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.records.facts import facts_of_rows

SECRET = "5" * 64
ROWS = [to_row(row, "rows", place) for place, row in enumerate(qa_rows(0, 6))]


@pytest.fixture
def told(tokenizer, tmp_path):
    """told(rows, has_secret): what is said of evaluating other rows of a model whose record is of four."""

    def tell(rows, has_secret=True):
        folder = tmp_path / "model"
        folder.mkdir()
        if has_secret:
            (folder / "_run.json").write_text(json.dumps({"secrets": [SECRET]}))
        facts = facts_of_rows(tokenize(ROWS[:4], tokenizer, name="rows"), SECRET)
        return _other_rows(custom_suite(rows), tokenizer, str(folder), {"rows": {"forget": facts}})

    return tell


def test_the_rows_of_the_record_need_no_word(told):
    assert told(ROWS[:4]) is None


def test_fewer_rows_are_told_by_their_number(told):
    assert "4 forget rows, but 3 were evaluated" in told(ROWS[:3], has_secret=False)


def test_as_many_other_rows_are_told_by_their_fingerprint(told):
    assert "their fingerprints differ" in told(ROWS[2:])


def test_without_the_secret_nothing_is_said_of_as_many_rows(told):
    assert told(ROWS[2:], has_secret=False) is None
