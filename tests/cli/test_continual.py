"""Requests one after the other: each run knows the earlier ones, and says whether their rows come back."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from fixtures_audit import wide_model
from fixtures_cli import egup, save, write_rows

from egup_trainer.cli.main import main
from egup_trainer.records.io import read_ledger, write_ledger

SPANS = {"first": (0, 6), "second": (6, 12), "third": (12, 18), "retain": (20, 32), "mixed": (4, 12)}


def unlearn(folder, model, forget, output, *words, **flags):
    flags = {"retain": folder / "retain.jsonl", "use_cpu": True, "report_to": "none", "disable_tqdm": True, **flags}
    flags |= {"learning_rate": 1e-3, "max_steps": 2, "save_strategy": "no", "objective": "grad_diff", "verdict": False}
    paths = {"model_name_or_path": folder / model, "output_dir": folder / output, "forget": folder / f"{forget}.jsonl"}
    return egup("unlearn", *words, **paths, **flags)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A model that was unlearned twice: "one" and "two"."""
    folder = tmp_path_factory.mktemp("continual")
    write_rows(folder, **SPANS)
    save(wide_model(tokenizer), tokenizer, folder / "model")
    assert unlearn(folder, "model", "first", "one") == 0
    assert unlearn(folder, "one", "second", "two") == 0
    return folder


def test_each_run_adds_a_line_with_what_it_measured(folder):
    (alone,), (first, second) = read_ledger(folder / "one"), read_ledger(folder / "two")
    assert first == alone
    assert (first.rows, second.rows, first.fingerprint == second.fingerprint) == (6, 6, False)
    assert first.probability.keys() == {"before", "after"}
    assert first.earlier == {}
    assert second.earlier.keys() == {first.fingerprint}
    again = second.earlier[first.fingerprint]
    assert again["before"] == pytest.approx(first.probability["after"], rel=1e-6)
    assert again["after"] != again["before"]


def test_a_third_run_finds_the_rows_of_both_and_tells_of_their_rise(folder, capsys):
    assert unlearn(folder, "two", "third", "three") == 0
    printed = capsys.readouterr().out
    assert re.search(r"│ earlier 1 +│ 0\.\d+ +│ 0\.\d+ +│", printed)
    requests = read_ledger(folder / "three")
    assert [len(request.earlier) for request in requests] == [0, 1, 2]
    for place, request in enumerate(requests[:2]):
        line = f"Earlier request {place + 1} ({request.date}, fingerprint {request.fingerprint}): probability "
        assert [each for each in printed.splitlines() if each.startswith(line)]


def test_rows_that_are_gone_are_said_to_be(folder, capsys):
    run = json.loads((folder / "two" / "_run.json").read_text(encoding="utf-8"))
    run["sources"] = dict.fromkeys(run["sources"], str(folder / "gone.jsonl"))
    (folder / "two" / "_run.json").rename(folder / "two" / "kept")
    (folder / "two" / "_run.json").write_text(json.dumps(run), encoding="utf-8")
    assert unlearn(folder, "two", "third", "gone") == 0
    (folder / "two" / "kept").replace(folder / "two" / "_run.json")
    fingerprint = read_ledger(folder / "two")[0].fingerprint
    (said,) = [line for line in capsys.readouterr().out.splitlines() if fingerprint in line]
    assert "--earlier_forget" in said


def test_rows_that_are_named_are_taken(folder):
    assert unlearn(folder, "two", "third", "named", earlier_forget=folder / "second.jsonl") == 0
    _, second, third = read_ledger(folder / "named")
    assert third.earlier.keys() == {second.fingerprint}


@pytest.mark.parametrize(
    ("model", "flags", "named"),
    [
        ("two", ("--earlier_forget", "third.jsonl"), ("third.jsonl", "--earlier_forget")),  # of no request
        ("model", ("--earlier_forget", "first.jsonl"), ("--earlier_forget", "egup_ledger.jsonl")),  # without a ledger
        ("two", ("--retain", "mixed.jsonl"), ("row 4 of the earlier 1 forget set is row 0", "--drop_overlap")),
    ],
)
def test_rows_that_do_not_fit_the_ledger_are_refused(folder, capsys, monkeypatch, model, flags, named):
    """The last case would teach again what was to be forgotten."""
    monkeypatch.chdir(folder)
    assert unlearn(folder, model, "third", "no", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(each in line for each in named)
    assert not (folder / "no").exists()


def test_the_ledger_is_shown(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert egup("ledger", folder / "two") == 0
    printed = capsys.readouterr().out
    for place, request in enumerate(read_ledger(folder / "two"), start=1):
        (line,) = [line for line in printed.splitlines() if request.fingerprint in line]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[:7] == [str(place), request.date, "6", request.fingerprint, "grad_diff", "2", "-"]


def test_the_ledger_shows_the_verdict_on_each_request(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    first, second = read_ledger(folder / "two")
    write_ledger(tmp_path, [replace(first, status="PARTLY FORGOTTEN"), second])
    assert egup("ledger", tmp_path) == 0
    heading, first, second = (
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if "│" in line or "┃" in line
    )
    assert (heading[6], first[6], second[6]) == ("verdict", "PARTLY FORGOTTEN", "-")


def test_a_model_without_a_ledger_is_refused(folder, capsys):
    assert egup("ledger", folder / "model") == 2
    assert f"{folder / 'model'}, which has no egup_ledger.jsonl" in capsys.readouterr().err


def test_the_same_request_twice_is_measured_under_both_numbers(folder):
    assert unlearn(folder, "one", "first", "again") == 0
    first, second = read_ledger(folder / "again")
    assert first.fingerprint != second.fingerprint  # each is keyed by the secret of its run
    assert unlearn(folder, "again", "second", "after_again") == 0
    probability = json.loads((folder / "after_again" / "unlearning.json").read_text(encoding="utf-8"))["probability"]
    assert {"earlier 1", "earlier 2"} <= probability["after"].keys()
    assert probability["after"]["earlier 1"] == probability["after"]["earlier 2"]


def test_one_name_in_a_config_file_is_a_list_of_one(folder):
    (folder / "run.yaml").write_text(f"earlier_forget: {folder / 'second.jsonl'}\n", encoding="utf-8")
    assert unlearn(folder, "two", "third", "by_file", config=folder / "run.yaml") == 0
    _, second, third = read_ledger(folder / "by_file")
    assert third.earlier.keys() == {second.fingerprint}


def test_earlier_rows_that_moved_can_be_verified(folder, tmp_path, capsys):
    shutil.copy(folder / "first.jsonl", tmp_path / "moved.jsonl")
    run = json.loads((folder / "two" / "_run.json").read_text(encoding="utf-8"))
    run["sources"]["earlier 1"] = "/gone.jsonl"
    (tmp_path / "_run.json").write_text(json.dumps(run), encoding="utf-8")
    words = ["verify", str(tmp_path / "_run.json"), "--model", str(folder / "two"), "--use_cpu"]
    assert main(words) == 2
    capsys.readouterr()
    assert main([*words, "--earlier_forget", str(tmp_path / "moved.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Numbers equal, within a share of 0.001."
