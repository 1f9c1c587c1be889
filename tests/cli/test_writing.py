"""What is written: no other file is overwritten, and a full or read-only disk is one line with nothing lost."""

import errno
import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures_cli import assert_refused

from egup_trainer import files
from egup_trainer.audit.audit import Audit
from egup_trainer.checkpointing import write_list
from egup_trainer.cli.flags import check_output, check_output_dir
from egup_trainer.conditions import Conditions, save_state
from egup_trainer.data.layouts import to_row
from egup_trainer.errors import ConfigError, StateError
from egup_trainer.evaluation.evaluation import Evaluation, read_evaluation, write_evaluation
from egup_trainer.modeling.scan import load_scan, save_scan
from egup_trainer.proxies.filters import Rejection
from egup_trainer.proxies.judge import Verdict
from egup_trainer.proxies.writer import AttemptLog
from egup_trainer.records.card import write_model_card
from egup_trainer.records.io import read_ledger, write_ledger, write_record
from egup_trainer.records.schema import Request
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.page import write_report
from egup_trainer.report.plots.outcome import write_picture

WRITERS = {
    "scan": lambda folder: save_scan(folder / "scan", {"a": torch.zeros(1)}, "f"),
    "state": lambda folder: save_state({"a": torch.zeros(1)}, str(folder), Conditions()),
    "checkpoint's list": write_list,
    "results": lambda folder: write_evaluation(folder / "r.json", _results("new")),
    "audit": lambda folder: Audit("new", {}, {}, {}).write(folder / "a.json"),
    "report": lambda folder: write_report(folder / "report.html", [_results("new")]),
    "ledger": lambda folder: write_ledger(folder, [_request("new")]),
    "record": lambda folder: write_record({"a": 1}, folder),
    "card": lambda folder: write_model_card(folder, "# new"),
    "picture": lambda folder: write_picture(folder / "plot.png", Comparison.of([_results("new")], None), "new"),
    "attempts": lambda folder: AttemptLog.start(folder / "p.attempts.jsonl", "d", {}),
}


def _results(name: str) -> Evaluation:
    return Evaluation(name, "custom", None, {}, {})


def _request(objective: str) -> Request:
    return Request("2026-01-01", 1, "ab", objective, 1, {})


def _fill(path: Path, *_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fault", ["mkstemp", "fsync"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_is_full_or_read_only_is_one_line_and_leaves_what_was_there(tmp_path, monkeypatch, writer, fault):
    WRITERS[writer](tmp_path)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(files.tempfile if fault == "mkstemp" else files.os, fault, lambda *_, **__: _fill(tmp_path))
    with pytest.raises(StateError, match=r"which cannot be written \(No space left on device\)"):
        WRITERS[writer](tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def _write_often(folder: Path, name: str, num_rows: int) -> None:
    path, log = folder / "r.json", [_request(name)] * num_rows
    features = {"forget": torch.full((num_rows, 2), float(num_rows)).numpy()}
    for _ in range(40):
        write_evaluation(path, Evaluation(name, "custom", None, {}, {}, features=features))
        write_ledger(folder, log)
        save_scan(folder / "scan", {"a": torch.zeros(num_rows)}, "f")


def test_two_processes_that_write_the_same_files_lose_none(tmp_path):
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_write_often, args=(tmp_path, name, rows)) for name, rows in (("a", 2), ("b", 3))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = read_evaluation(tmp_path / "r.json")
    assert len(found.features["forget"]) == {"a": 2, "b": 3}[found.name]
    assert len(read_ledger(tmp_path)) in (2, 3)
    assert len(load_scan(tmp_path / "scan", "f")["a"]) in (2, 3)
    names = ["egup_ledger.jsonl", "r.features.safetensors", "r.json", "scan"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("place", range(5))
def test_files_that_belong_together_are_no_mixture_after_a_kill(tmp_path, monkeypatch, place):
    paths = [tmp_path / name for name in ("report.html", "report.json", "report.csv")]
    files.write_files(dict.fromkeys(paths, "old"))
    events = iter(range(9))

    def killed(do):
        def step(path, *args, **kwargs):
            is_cleaning_up = path.suffix == ".tmp" and not args
            if not is_cleaning_up and next(events) == place:
                raise KeyboardInterrupt
            return do(path, *args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed(Path.replace))
        patch.setattr(Path, "unlink", killed(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            files.write_files(dict.fromkeys(paths, "new"))
    # Removed: json, csv; then renamed: html, json, csv.
    left = {path.name: path.read_text() for path in sorted(tmp_path.iterdir())}
    assert left == dict.fromkeys(
        [["report.csv", "report.html", "report.json"], ["report.csv", "report.html"], ["report.html"]][place]
        if place < 3
        else [["report.html"], ["report.html", "report.json"]][place - 3],
        "old" if place < 3 else "new",
    )


def test_attempts_hold_any_character_and_are_appended_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "p.attempts.jsonl"
    log = AttemptLog.start(path, "d", 0.0)
    text = "one\u2028two\u2029three\x85four\x0cfive\rsix"
    log.append([Verdict(0, None, to_row({"question": text, "answer": text}, "rows", 0), 1.0)])
    [verdict] = AttemptLog.read(path).verdicts
    assert verdict.row.answer == text
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _fill)
        with pytest.raises(StateError):
            log.append([Verdict(1, None, verdict.row, 1.0)])
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"attempt": 1, "ro')  # the process was killed while it wrote
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _fill)
        with pytest.raises(StateError):
            AttemptLog.read(path)
    assert path.read_bytes().startswith(whole)  # not cut in place
    assert len(AttemptLog.read(path).verdicts) == 1
    assert path.read_bytes() == whole


@pytest.mark.parametrize("number", [0, 2])
def test_attempts_that_do_not_follow_each_other_are_refused(tmp_path, number):
    path = tmp_path / "p.attempts.jsonl"
    AttemptLog.start(path, "d", 0.0)
    lines = [json.dumps({"attempt": each, "rejected": next(iter(Rejection)).name.lower()}) for each in (0, number)]
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    with pytest.raises(StateError, match="which holds no attempts"):
        AttemptLog.read(path)


def test_two_runs_do_not_mix_their_attempts(tmp_path):
    path = tmp_path / "p.attempts.jsonl"
    first, second = AttemptLog.start(path, "d", 0.0), AttemptLog.read(path)
    row = to_row({"question": "q", "answer": "a"}, "rows", 0)
    first.append([Verdict(0, None, row, 1.0)])
    with pytest.raises(StateError, match="to which another run has written meanwhile"):
        second.append([Verdict(0, None, row, 1.0)])
    first.append([Verdict(1, None, row, 1.0)])
    assert len(AttemptLog.read(path).verdicts) == 2


@pytest.mark.parametrize("command", ["evaluate", "audit", "compare", "proxy"])
@pytest.mark.parametrize("content", ['{"question": "q", "answer": "a"}\n', '{"model_type": "llama"}', '{"kind": 1}'])
def test_a_file_that_the_command_did_not_write_is_not_overwritten(tmp_path, capsys, command, content):
    suffix = {"compare": ".html", "proxy": ".jsonl"}.get(command, ".json")
    path = tmp_path / f"config{suffix}"
    path.write_text(content)
    words = {
        "evaluate": ["--model_name_or_path", "m", "--suite", "custom"],
        "audit": ["--model_name_or_path", "m", "--forget", "f", "--retain", "r"],
        "compare": ["r.json"],
        "proxy": ["--model_name_or_path", "m", "--forget", "f"],
    }[command]
    assert_refused([command, *words, "--output", str(path)], tmp_path, capsys, f"--output {path}", "overwrite")
    assert path.read_text() == content


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--model_name_or_path", "m", "--suite", "custom", "--retrained", "r.json"],
        ["audit", "--model_name_or_path", "m", "--forget", "r.json", "--retain", "f"],
    ],
)
def test_a_file_that_the_command_reads_is_not_overwritten(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write_evaluation(Path("r.json"), _results("old"))
    said = "--output r.json, which would overwrite a file that the command reads"
    assert_refused([*words, "--output", "r.json"], tmp_path, capsys, said)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_files_beside_a_report_are_not_overwritten(tmp_path, capsys, suffix):
    path = tmp_path / f"report{suffix}"
    path.write_text("my own")
    words = ["compare", "r.json", "--output", str(tmp_path / "report.html")]
    assert_refused(words, tmp_path, capsys, f"--output {path}", "overwrite")


def test_earlier_results_and_empty_files_may_be_overwritten(tmp_path):
    path = tmp_path / "r.json"
    path.touch()
    check_output(path, ".json", '"kind": "egup_trainer evaluation"')
    write_evaluation(path, _results("old"))
    check_output(path, ".json", '"kind": "egup_trainer evaluation"')
    with pytest.raises(ConfigError):
        check_output(path, ".json", '"kind": "egup_trainer audit"')


@pytest.mark.parametrize("check", [lambda path: check_output(path, ".json", "x"), check_output_dir])
def test_a_place_is_tried_before_the_work(tmp_path, monkeypatch, check):
    check(tmp_path / "new" / "a.json")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "fsync", _fill)
    with pytest.raises(StateError, match=r"which cannot be written \(No space left on device\)"):
        check(tmp_path / "new" / "a.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_what_safetensors_and_torch_raise_on_a_full_disk_is_one_line(tmp_path):
    from safetensors.torch import save_file

    for write in (lambda _: torch.save(torch.zeros(9999), "/dev/full"), lambda _: save_file({}, "/dev/full/x")):
        with pytest.raises(StateError, match=r"a\.bin, which cannot be written"):
            files.write_file_with(tmp_path / "a.bin", write)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_but_by_the_one_writer():
    writes = re.compile(r"\.write_text\(|\.write_bytes\(|\bopen\([^)]*\"[wax]|\.touch\(|json\.dump\(|\.save\(")
    package = Path(files.__file__).parent
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if path != Path(files.__file__)
        for line in path.read_text(encoding="utf-8").split("\n")
        if writes.search(line)
    ]
    assert [line for line in found if "os.devnull" not in line] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("word", ["--version", "env"])
def test_standard_output_on_a_full_disk_is_one_line(word):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "egup_trainer.cli.main", word]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line
