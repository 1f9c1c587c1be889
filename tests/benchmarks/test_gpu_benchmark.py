"""The check on a GPU: its dry run on a CPU, and that parts fail, end and are left out one by one."""

import json
import os
import time
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import report, running
from benchmarks.gpu.cases import Case, Findings, Status, status_of
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.parts.engines import LAUNCHES, WRAPPED
from benchmarks.gpu.place import Place
from benchmarks.gpu.running import Runner
from benchmarks.tables import Line, read_table
from egup_trainer.errors import ConfigError

ROOT = Path(__file__).parents[2]


def machine(place, findings):
    with findings.case("machine") as case:
        case.measured["versions"] = {"python": "3"}


def preparation(place, findings):
    with findings.case("small model"):
        place.model.mkdir()
        (place.model / "tokenizer.json").write_text("{}")


def no_preparation(place, findings):
    with findings.case("small model"):
        raise OSError("disk full")


def passes(place, findings):
    with findings.case("one") as case:
        case.near("two numbers", [1.0, 2.0], [1.0, 2.5], at_most=0.25, relative=True)


def raises(place, findings):
    passes(place, findings)
    with findings.case("two"):
        raise RuntimeError("no kernel image\nis available")
    with findings.case("three") as case:
        case.equal("verdict", "FORGOTTEN", "FORGOTTEN")


def raises_between_cases(place, findings):
    raise KeyError("attention")


def hangs(place, findings):
    passes(place, findings)
    with findings.case("two"):
        time.sleep(300)


def crashes(place, findings):
    passes(place, findings)
    os._exit(7)


def part(work, expected=0.0, most=60.0):
    return Part(work.__name__, work, expected, most)


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """runner(minutes=12): with a preparation that takes no time."""
    monkeypatch.setattr(running, "_MACHINE", part(machine))
    monkeypatch.setattr(running, "_PREPARATION", part(preparation))
    (tmp_path / "work").mkdir()
    return lambda minutes=12.0: Runner(Place(tmp_path / "work", dry=True), tmp_path / "gpu.jsonl", minutes)


def test_a_part_that_raises_or_ends_is_a_line_with_a_reason_and_the_rest_goes_on(runner):
    parts = [part(raises), part(raises_between_cases), part(hangs, most=4.0), part(crashes), part(passes)]
    a_run = runner()
    lines = a_run.run(parts)
    assert {name: line["status"] for name, line in lines.items()} == {
        "raises": "failed",
        "raises_between_cases": "failed",
        "hangs": "failed",
        "crashes": "failed",
        "passes": "passed",
    }
    statuses = [case["status"] for case in lines["raises"]["cases"]]
    assert statuses == ["passed", "failed", "passed"]  # a failed case ends neither the part nor what it had found
    assert lines["raises"]["reason"] == "two: RuntimeError: no kernel image"
    assert "raises" in lines["raises"]["cases"][1]["where"][-1]
    assert "KeyError" in lines["raises_between_cases"]["reason"]
    assert lines["hangs"]["reason"] == "ended after 4 s"
    assert lines["crashes"]["reason"] == "ended with exit code 7"
    for name in ("hangs", "crashes"):  # what was found before is kept
        assert [case["status"] for case in lines[name]["cases"]] == ["passed"]
    written = read_table(a_run.table)
    assert list(written) == ["preparation", *lines]
    assert written["passes"]["run"]["versions"] == {"python": "3"}


def test_parts_that_do_not_fit_into_the_minutes_are_left_out(runner):
    began = time.monotonic()
    lines = runner(minutes=0.5).run([part(passes, expected=31.0), part(hangs, expected=0.0, most=3.0)])
    assert lines["passes"]["status"] == "skipped"
    assert lines["passes"]["reason"].endswith("of 0.5 minutes are left, 31 needed")
    assert lines["passes"]["cases"] == []
    assert lines["hangs"]["reason"] == "ended after 3 s"
    assert time.monotonic() - began < 60


def test_without_a_model_no_part_is_started(runner, monkeypatch):
    monkeypatch.setattr(running, "_PREPARATION", part(no_preparation))
    assert runner().run([part(passes)])["passes"]["reason"] == "the preparation has failed"


def test_without_a_gpu_no_part_is_started(runner, monkeypatch):
    monkeypatch.setattr(running, "_MACHINE", part(no_preparation))
    monkeypatch.setattr(running, "_KINDS", ("forkserver",))  # a fresh process would need half a minute
    lines = runner().run([part(passes)])
    assert lines["passes"]["reason"] == "no machine to run on (small model: OSError: disk full)"


def test_differences_by_hand():
    case = Case("case")
    case.near("alike", [1.0, -4.0], [1.5, -5.0], at_most=0.2, relative=True)  # 1 of 5
    case.near("alike", [1.0], [1.5], at_most=0.5)
    case.below("a bound", 2.0, 2.0)
    assert (case.status, [check["holds"] for check in case.checks]) == (Status.PASSED, [True] * 3)
    assert [check["off"] for check in case.checks[:2]] == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize(
    ("found", "expected"), [([1.1], [1.0]), ([float("nan")], [1.0]), ([1.0], [1.0, 1.0]), ([], [])]
)
def test_what_is_off_not_a_number_or_not_there_fails(found, expected, tmp_path):
    findings = Findings(tmp_path / "part.json")
    with findings.case("case") as case:
        case.near("numbers", found, expected, at_most=0.05)
    (written,) = json.loads(findings.path.read_text())
    assert (written["status"], written["reason"][:9]) == ("failed", "numbers: ")
    assert written["checks"][0]["holds"] is False


def test_a_part_is_what_its_cases_are():
    def status(*found):
        return status_of([{"status": each} for each in found])

    assert status("passed", "skipped") is Status.PASSED
    assert status("passed", "skipped", "failed") is Status.FAILED
    assert status("skipped") is status() is Status.SKIPPED


def test_every_part_is_found_by_its_name_and_all_fit():
    for name, each in PARTS.items():
        assert (ROOT / "benchmarks" / "gpu" / "parts" / f"{name}.py").is_file()
        assert 0 < each.expected < each.most
    assert sum(each.expected for each in PARTS.values()) < 60 * 9


def test_launches_use_files_that_exist():
    for launch in LAUNCHES:
        assert (ROOT / "accelerate_configs" / f"{launch.engine}.yaml").is_file()
        assert launch.engine in WRAPPED or launch.engine == "ddp"
    assert len({launch.name for launch in LAUNCHES}) == len(LAUNCHES)


def test_an_unknown_part_is_refused():
    with pytest.raises(ConfigError) as error:
        gpu.main(["--dry_run", "--parts", "precision", "prcision"])
    assert "prcision" in error.value.got
    assert "eight_billion" in error.value.expected


def test_the_table_shows_gpu_results_alone(tmp_path):
    table = tmp_path / "gpu.jsonl"
    Line(table, "precision").write({"status": "passed", "reason": None, "device": "cpu", "cases": []})
    assert report.report(table) == "Not run yet."
    near = {"what": "loss", "holds": True, "found": [1.0], "expected": [1.0], "off": 0.01, "at_most": 0.05}
    row = {"what": "l", "holds": True, "found": 0.09, "at_most": 0.1}
    cases = [
        {"name": "bf16", "status": "passed", "reason": None, "checks": [near, row], "measured": {"peak_gb": 1.5}},
        {"name": "fp16", "status": "skipped", "reason": "no scaler", "checks": [], "measured": {}},
    ]
    ended = "ended after 60 s"
    Line(table, "precision").write({"status": "failed", "reason": ended, "device": "cuda", "cases": cases})
    assert report.report(table).splitlines()[2:] == [
        "| precision | bf16 | passed | 0.09 / 0.1 | peak 1.50 GB |",
        "| precision | fp16 | skipped |  | no scaler |",
        "| precision |  | failed |  | ended after 60 s |",
    ]


def test_the_page_shows_the_committed_results():
    page = report.PAGE.read_text(encoding="utf-8")
    assert f"<!-- begin: gpu checks -->\n{report.report(gpu.TABLE)}\n<!-- end: gpu checks -->" in page


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """The lines of a dry run of the parts that take the least."""
    table = tmp_path_factory.mktemp("gpu") / "gpu.jsonl"
    names = ["packing", "eight_billion", "kernels"]
    assert gpu.main(["--dry_run", "--parts", *names, "--output", str(table)]) == 0
    lines = read_table(table)
    assert list(lines) == ["preparation", *names]
    return lines


def test_a_dry_run_checks_what_a_cpu_can(dry):
    assert {line["device"] for line in dry.values()} == {"cpu"}
    assert dry["preparation"]["status"] == "passed"
    packed = dry["packing"]["cases"][0]
    assert (packed["name"], packed["status"]) == ("sdpa", "passed")
    assert packed["measured"]["padding"] < packed["measured"]["padding_padded"]
    (billion,) = dry["eight_billion"]["cases"]
    assert [check["found"] for check in billion["checks"]] == [3, True]
    assert {"versions", "machine", "processes"} <= dry["packing"]["run"].keys()


def test_what_needs_a_gpu_says_so(dry):
    assert dry["kernels"]["status"] == "skipped"
    flash = [case for case in dry["packing"]["cases"] if "flash" in case["name"]]
    for case in (*dry["kernels"]["cases"], *flash):
        assert case["status"] == "skipped"
        assert "need" in case["reason"]
        assert "GPU" in case["reason"]


@pytest.mark.slow
def test_the_whole_dry_run_passes(tmp_path):
    table = tmp_path / "gpu.jsonl"
    assert gpu.main(["--dry_run", "--output", str(table)]) == 0
    statuses = {name: line["status"] for name, line in read_table(table).items()}
    assert {name for name, status in statuses.items() if status == "skipped"} == {"kernels", "memory_plan"}
    assert statuses.keys() == {"preparation", *PARTS}
