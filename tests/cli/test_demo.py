"""The demo, run as a user runs it: its files, its numbers, its time."""

import json
import math
import subprocess
import sys
import time

import pytest

from egup_trainer.cli.main import main
from egup_trainer.demo.people import invent_people


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What a run of `egup demo` printed, how long it took, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    start = time.perf_counter()
    command = [sys.executable, "-m", "egup_trainer.cli.main", "demo", "--output_dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return {"printed": done.stdout, "seconds": time.perf_counter() - start, "folder": folder}


@pytest.fixture(scope="module")
def metrics(demo):
    """Metrics by row name."""
    document = json.loads((demo["folder"] / "results.json").read_text())
    return {row["name"]: row["metrics"] for row in document["rows"]}


def test_results_have_the_promised_layout(demo):
    document = json.loads((demo["folder"] / "results.json").read_text())
    assert document["schema_version"] == 1
    assert [row["name"] for row in document["rows"]] == ["before", "gradient_difference", "egup", "retrained"]
    for row in document["rows"]:
        parts = [f"{name}_{what}" for name in ("forget", "retain", "proxy") for what in ("probability", "nll")]
        assert list(row["metrics"]) == [*parts, "seconds"]
        for name in ("forget_probability", "retain_probability", "proxy_probability"):
            assert 0 <= row["metrics"][name] <= 1
    assert document["run"]["machine"]["cores"] > 0
    assert document["run"]["settings"]["seed"] == 0


def test_the_first_model_knew_the_forget_rows_and_the_twin_does_not(metrics):
    assert metrics["before"]["forget_probability"] > 0.8
    assert metrics["retrained"]["forget_probability"] < 0.1


def test_egup_comes_within_a_factor_of_3_of_the_retrained_model(metrics):
    ratio = metrics["egup"]["forget_probability"] / metrics["retrained"]["forget_probability"]
    assert 1 / 3 < ratio < 3


def test_egup_keeps_what_is_retained(metrics):
    assert metrics["egup"]["retain_probability"] > 0.9 * metrics["retrained"]["retain_probability"]


def test_plain_gradient_difference_goes_orders_of_magnitude_too_far(metrics):
    gap = metrics["retrained"]["forget_probability"] / metrics["gradient_difference"]["forget_probability"]
    assert math.log10(gap) > 3


def test_the_table_is_whole_and_the_picture_is_there(demo):
    for name in ("before", "gradient_difference", "egup", "retrained", "forget p", "retain p"):
        assert name in demo["printed"]
    assert (demo["folder"] / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_and_the_results_behind_it_are_there(demo):
    page = (demo["folder"] / "report.html").read_text(encoding="utf-8")
    for name in ("before", "gradient_difference", "egup", "retrained", "Forget quality", "data:image/svg+xml"):
        assert name in page
    assert "http" not in page
    numbers = json.loads((demo["folder"] / "egup.json").read_text())["metrics"]
    assert numbers["forget_quality"]["value"] > 0
    assert numbers["mia_min_k"]["num_samples"] == 120
    assert numbers["entanglement_retain_shift"]["num_samples"] == 180
    assert {name for name, metric in numbers.items() if metric["value"] is None} == {"mia_reference", "mia_gradnorm"}


def test_it_takes_less_than_three_minutes(demo):
    assert demo["seconds"] < 180


@pytest.mark.parametrize("name", ["report.html", "results.json"])
def test_files_of_another_command_are_not_overwritten(name, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    assert main(["demo", "--output_dir", str(tmp_path)]) == 2
    said = f"--output_dir {tmp_path / name}, which would overwrite a file that this command did not write"
    assert said in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


def test_invented_people_are_different_in_all_groups_and_the_same_for_a_seed():
    people = invent_people(seed=3)
    rows = [row for group in vars(people).values() for row in group]
    assert len({row["question"] for row in rows}) == len(rows) == 6 * 60
    assert all(len(set(row["perturbed_answer"])) == 3 for row in rows)
    assert not any(row["paraphrased_answer"] in row["perturbed_answer"] for row in rows)
    assert invent_people(seed=3) == people
    assert invent_people(seed=4) != people
