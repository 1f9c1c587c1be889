"""How long an audit takes: what is timed on which model, from rows to table."""

import time
from dataclasses import replace

import pytest
from conftest import SHARED
from fixtures_audit import QUICK
from fixtures_study import make_study_small

from benchmarks import audit_speed
from benchmarks.audit_speed import MODELS, Stopwatch, table
from benchmarks.tables import Line
from egup_trainer.audit import ATTACKS
from egup_trainer.audit.attack import Finding


def test_waiting_takes_no_time_of_the_processor_and_computing_does():
    def compute():
        start = time.process_time()
        while time.process_time() - start < 0.1:
            pass
        return Finding()

    stopwatch = Stopwatch(["first", "second"])
    stopwatch.begin_model()
    assert stopwatch.run("prompts", lambda: time.sleep(0.1) or Finding(reason="slept")).reason == "slept"
    stopwatch.begin_model()
    stopwatch.run("prompts", compute)
    first, second = stopwatch.times["first"], stopwatch.times["second"]
    assert first.wall["prompts"] >= 0.1 > 0.05 > first.processor["prompts"]
    assert second.wall["prompts"] >= second.processor["prompts"] - 0.01 >= 0.09


def test_the_table_adds_up_the_models():
    seconds = {name: {"merging": number, "depth": 10.0} for number, name in enumerate(MODELS, start=1)}
    line = {"wall_seconds": {**seconds, "whole": 50.0}, "processor_seconds": {**seconds, "whole": 80.0}}
    rows = [row.strip("| ").split(" | ") for row in table(line).splitlines()[2:]]
    assert rows == [
        ["merging", "1.0", "2.0", "3.0", "6.0", "6.0", f"{ATTACKS['merging'].cost:g}"],
        ["depth", "10.0", "10.0", "10.0", "30.0", "30.0", f"{ATTACKS['depth'].cost:g}"],
        ["whole audit", "11.0", "12.0", "13.0", "50.0", "80.0", "3"],
    ]


@pytest.mark.slow
def test_all_attacks_are_timed_on_each_model(tofu, tmp_path, monkeypatch, capsys):
    tofu("full")  # skips where the rows are not at hand
    make_study_small(monkeypatch)
    monkeypatch.setattr(audit_speed, "TABLE", tmp_path / "audit_speed.jsonl")
    monkeypatch.setattr(audit_speed, "OPTIONS", replace(QUICK, max_new_tokens=4))
    words = ["--data_dir", str(SHARED / "data" / "tofu"), "--work_dir", str(tmp_path / "work"), "--max_rows", "6"]
    audit_speed.main(words)
    line = Line(audit_speed.TABLE, "audit").read()
    assert line["rows"] == {"forget": 6, "retain": 6, "holdout": 6}
    assert line["not_run"] == {"semantic": "needs a model that judges texts (--judge_model)"}
    timed = [attack for attack in ATTACKS if attack != "semantic"]
    for kind in ("wall_seconds", "processor_seconds"):
        assert [[*line[kind][name]] for name in MODELS] == [timed] * 3
        parts = [value for name in MODELS for value in line[kind][name].values()]
        assert all(value > 0 for value in parts)
        assert line[kind]["whole"] > sum(parts)
    printed = capsys.readouterr().out
    audit_speed.main(["--report"])
    assert capsys.readouterr().out.strip() in printed
