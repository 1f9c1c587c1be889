"""Tables of results: lines are added, replaced and read back, by several processes, too; TOFU is fetched by name."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil

from benchmarks import tofu
from benchmarks.runner import Piece, run_pieces
from benchmarks.tables import RESULTS, Line, read_table


def test_lines_keep_their_place_and_their_values(tmp_path):
    table = tmp_path / "new" / "runs.jsonl"
    assert not Line(table, "a").exists()
    for name, value in (("a", 0.1), ("b", None), ("a", 1 / 3)):
        Line(table, name).write({"values": {"x": value}})
    assert [json.loads(line) for line in table.read_text().splitlines()] == [
        {"name": "a", "values": {"x": 1 / 3}},
        {"name": "b", "values": {"x": None}},
    ]
    assert Line(table, "a").read() == {"values": {"x": 1 / 3}}


def test_processes_write_one_table(tmp_path):
    lines = [Line(tmp_path / "runs.jsonl", str(number)) for number in range(6)]
    lines[0].write({"value": "kept"})
    pieces = [Piece(line.name, (line,), partial(line.write, {"value": line.name})) for line in lines]
    run_pieces(pieces, "Writing", workers=2)
    values = {name: line["value"] for name, line in read_table(lines[0].table).items()}
    assert values == {"0": "kept", **{str(number): str(number) for number in range(1, 6)}}


SLEEP = """
import time
from functools import partial
from pathlib import Path
from benchmarks.runner import Piece, run_pieces

if __name__ == "__main__":
    run_pieces([Piece("sleep", (Path("nowhere"),), partial(time.sleep, 600))], "Sleeping", workers=1)
"""


def _workers_of(pid: int) -> list[psutil.Process]:
    return [each for each in psutil.Process(pid).children() if "spawn_main" in " ".join(each.cmdline())]


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """They would otherwise compute on where nobody reads the result, and slow down everything else."""
    script = tmp_path / "sleep_on.py"
    script.write_text(SLEEP)
    environment = {**os.environ, "PYTHONPATH": str(Path(tofu.__file__).parents[1])}
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL, env=environment) as started:
        while not (workers := _workers_of(started.pid)):
            time.sleep(0.1)
        time.sleep(5)
        started.kill()
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_every_committed_table_is_read():
    tables = sorted(RESULTS.rglob("*.jsonl"))
    assert {path.stem for path in tables} >= {"tried", "references", "methods", "gemma", "steps_cpu", "plan"}
    for path in tables:
        assert len(read_table(path)) == len(path.read_text(encoding="utf-8").splitlines())  # names occur once
    assert not list(RESULTS.rglob("*.json"))


def test_tofu_is_fetched_split_by_split(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tofu, "read_source", lambda name: [{"question": name, "answer": "Gör."}])
    monkeypatch.setattr("sys.argv", ["tofu", "--data_dir", str(tmp_path)])
    tofu.main()
    assert {path.stem for path in tmp_path.iterdir()} == set(tofu.SPLITS)
    expected = '{"question": "tofu:forget10_perturbed", "answer": "Gör."}\n'
    assert (tmp_path / "forget10_perturbed.json").read_text(encoding="utf-8") == expected
    assert capsys.readouterr().out.startswith("full: 1 rows\n")
