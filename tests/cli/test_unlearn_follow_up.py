"""egup unlearn with a verdict, a report and an audit, in one process."""

import json

import pytest
from fixtures_cli import assert_refused, save, unlearn, whole_words, write_rows

from egup_trainer.records.schema import LEDGER_NAME


@pytest.fixture(scope="module")
def known(taught, tokenizer, tmp_path_factory):
    """Folder of a tiny model that knows the forget and the retain rows, and the rows as flags."""
    folder = tmp_path_factory.mktemp("known")
    rows = write_rows(folder, forget=(0, 10), retain=(20, 33), proxy=(40, 46))
    return save(taught(), tokenizer, folder / "model"), rows


def test_a_run_that_forgets_nothing_ends_with_another_code_and_says_so(known, tmp_path, capsys):
    model, rows = known
    assert unlearn(model, tmp_path / "out", **rows, verdict=True, learning_rate=1e-7) == 3
    printed = " ".join(capsys.readouterr().out.split())
    assert "Verdict: NOT FORGOTTEN Forget rows differ from rows never seen: probability 0.88, before 0.88;" in printed
    assert "Try --strength thorough, or more --num_train_epochs." in printed
    record = json.loads((tmp_path / "out" / "unlearning.json").read_text())
    assert record["verdict"]["status"] == "NOT FORGOTTEN"
    assert "**NOT FORGOTTEN**" in (tmp_path / "out" / "README.md").read_text()
    (line,) = (tmp_path / "out" / LEDGER_NAME).read_text().splitlines()
    assert json.loads(line)["status"] == "NOT FORGOTTEN"


def test_without_a_verdict_the_code_is_0(known, tmp_path):
    model, rows = known
    assert unlearn(model, tmp_path / "out", **rows, verdict=False, learning_rate=1e-7) == 0


def test_report_and_audit_are_those_of_the_other_commands(known, tmp_path, capsys):
    model, rows = known
    report, more = tmp_path / "report.html", ["--audit", "--max_new_tokens", "8"]
    assert unlearn(model, tmp_path / "out", *more, **rows, report=report, learning_rate=1e-3) == 0
    printed = capsys.readouterr().out
    steps = [line.split()[2] for line in printed.splitlines() if line.startswith("$ egup ")]
    assert steps == ["evaluate", "evaluate", "audit", "compare"]
    folder = tmp_path / "out" / "_evaluation"
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("before", "after")}
    assert results["before"]["metrics"]["forget_probability"]["value"] == pytest.approx(0.88, abs=0.02)
    assert results["after"]["metrics"]["holdout_probability"]["value"] is not None
    assert (folder / "audit.json").is_file()
    assert "Fine-tuned again" in report.read_text() or "relearn" in report.read_text().lower()


@pytest.mark.parametrize(
    ("flags", "got"),
    [
        (["--evaluate", "tofu"], "--evaluate"),
        (["--report", "report.pdf"], "report.pdf"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_a_model_is_loaded(flags, got, no_weights, tmp_path, capsys):
    assert_refused(whole_words(no_weights, tmp_path, *flags), tmp_path, capsys, got)
