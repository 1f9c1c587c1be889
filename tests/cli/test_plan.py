"""`egup plan`: the flags of unlearn, a table, nothing written, and what would make a run fit."""

from functools import partial

import pytest
from conftest import qa_rows
from fixtures_cli import egup, write_rows


@pytest.fixture
def plan(base, tmp_path, monkeypatch):
    """plan(*flags): exit code of `egup plan` in an empty folder."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    flags = {"model_name_or_path": base, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    flags |= {"per_device_train_batch_size": 4, "num_train_epochs": 2, "dataloader_pin_memory": False}
    return partial(egup, "plan", objective="npo", **flags, **write_rows(tmp_path))


def test_it_says_what_a_run_takes_and_writes_nothing(plan, base, tmp_path, capsys):
    def files():
        """All paths, and of files when they changed; folders change as it is tried whether they can be written to."""
        return {path: path.is_file() and path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = files()
    assert plan("--output_dir", "out", "--measure_steps", "1") == 0
    assert files() == before
    printed = capsys.readouterr().out
    for part in ("weights", "gradients", "optimizer state", "activations", "libraries", "loading", "scan", "step"):
        assert part in printed
    assert "Optimizer steps: 4" in printed
    assert "(100.00%)" in printed
    assert "s per step" in printed
    assert ": fits (an estimate" in printed
    assert qa_rows(0, 1)[0]["answer"] not in printed


def test_without_measured_steps_no_time_is_said(plan, capsys):
    assert plan("--measure_steps", "0") == 0
    assert "Time" not in capsys.readouterr().out


def test_flags_of_an_evaluation_before_the_first_step_are_taken(plan, tmp_path):
    """The rehearsal evaluates nothing; the run does."""
    flags = {"eval": tmp_path / "retain.jsonl", "eval_strategy": "epoch", "eval_on_start": True}
    assert plan("--measure_steps", "0", **flags) == 0


def test_another_machine_is_asked_for_and_what_is_nearest_is_said(plan, capsys):
    assert plan("--memory_gb", "0.01") == 0
    printed = capsys.readouterr().out
    assert "0.010 GB are free on the planned machine: does not fit" in " ".join(printed.split())
    assert "The nearest changes" in printed
    assert "Time: not measured" in printed


def test_only_changes_that_fit_are_shown(plan, monkeypatch, capsys):
    monkeypatch.setattr("egup_trainer.planning.rehearsal.measure_libraries", lambda job: 0)
    assert plan("--measure_steps", "0", "--memory_gb", "1") == 0
    printed = capsys.readouterr().out
    peak = float(next(line for line in printed.splitlines() if line.startswith("Peak")).split()[1])
    assert plan("--measure_steps", "0", "--memory_gb", str(peak)) == 0  # just the peak: no room for the margin
    printed = capsys.readouterr().out
    assert ": may fit (" in printed
    assert "What would make it fit" in printed
    assert "--per_device_train_batch_size" in printed


def test_the_forget_rows_stand_in_for_proxies_that_are_not_written_yet(plan, capsys):
    assert plan("--measure_steps", "0", "--proxy", "auto") == 0
    printed = capsys.readouterr().out
    assert "uses the forget rows in their place" in printed
    assert "Peak: " in printed


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--memory_gb", "0"), "memory_gb=0.0"),
        (("--measure_steps", "-1"), "measure_steps=-1"),
        (("--forget", "absent.jsonl"), "absent.jsonl"),
        (("--load_in_4bit",), "--load_in_4bit"),
        (("--lora_r", "4"), "--lora_r"),
    ],
)
def test_errors_are_one_line(plan, capsys, flags, named):
    assert plan("--measure_steps", "0", *flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert named in line
