"""Forget rows in a format that the model was not trained in: noticed before anything is trained."""

import pytest
from fixtures_cli import save, unlearn, write_rows


@pytest.fixture
def known(taught, tokenizer, tmp_path):
    """The model, trained with the default markers, and flags of the rows that it knows, retains, and never saw."""
    rows = write_rows(tmp_path, forget=(0, 10), retain=(20, 32), proxy=(40, 46))
    return save(taught(), tokenizer, tmp_path / "model"), {**rows, "learning_rate": 1e-3}


OTHER = {"user_marker": "Ask ", "assistant_marker": " Tell "}


def test_a_run_in_another_format_is_refused_and_says_which_is_right(known, tmp_path, capsys):
    model, flags = known
    assert unlearn(model, tmp_path / "out", **flags, **OTHER, verdict=True) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Got forget rows that the model knows better after the markers 'Question: ' and '\\nAnswer: '" in said
    assert (
        "but expected the format that the model was trained in. Name them (--user_marker, --assistant_marker)," in said
    )
    assert said.endswith("or add --no_verdict to unlearn them as they are.")
    assert not (tmp_path / "out").exists()


def test_such_a_run_is_possible_without_a_verdict(known, tmp_path):
    model, flags = known
    assert unlearn(model, tmp_path / "out", **flags, **OTHER, verdict=False) == 0


def test_a_run_in_the_right_format_reads_the_rows_once(known, tmp_path, monkeypatch):
    model, flags = known
    monkeypatch.setattr("egup_trainer.cli.formats.other_formats", lambda *args: pytest.fail("compared"))
    assert unlearn(model, tmp_path / "out", **flags, verdict=True) in (0, 3)
