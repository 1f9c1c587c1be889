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


@pytest.mark.parametrize(
    ("rows", "has_secret", "said"),
    [
        (ROWS[:4], True, None),
        (ROWS[:3], False, "4 forget rows, but 3 were evaluated"),
        (ROWS[2:], True, "their fingerprints differ"),
        (ROWS[2:], False, None),  # without the secret, as many rows cannot be told apart
    ],
)
def test_other_rows_are_told_by_their_number_or_their_fingerprint(tokenizer, tmp_path, rows, has_secret, said):
    if has_secret:
        (tmp_path / "_run.json").write_text(json.dumps({"secrets": [SECRET]}))
    facts = facts_of_rows(tokenize(ROWS[:4], tokenizer, name="rows"), SECRET)
    found = _other_rows(custom_suite(rows), tokenizer, str(tmp_path), {"rows": {"forget": facts}})
    assert (found is None) == (said is None)
    assert (said or "") in (found or "")
