"""The format of error messages, checked here once; other tests check the class and the fields of an error."""

import pickle

import pytest

from egup_trainer.errors import DataError, EgupError


@pytest.mark.parametrize(
    ("fix", "sentence"),
    [
        ("check the file", "Check the file."),
        ("did you mean npo?", "Did you mean npo?"),
        ("--index: leave it out", "--index: leave it out."),
        ("load_in_4bit must be off", "load_in_4bit must be off."),
    ],
)
def test_the_message_is_plain_english(fix, sentence):
    error = EgupError(got="0 rows in a.json", expected="at least 1", fix=fix)
    assert str(error) == f"Got 0 rows in a.json, but expected at least 1. {sentence}"
    assert (error.got, error.expected, error.fix) == ("0 rows in a.json", "at least 1", fix)


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(DataError(got="a", expected="b", fix="c")))
    assert (type(error), error.got, error.expected, error.fix) == (DataError, "a", "b", "c")
