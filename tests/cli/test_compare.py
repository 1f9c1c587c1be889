"""`egup compare`: which files it reads, what it refuses, what it writes and prints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures_report import examples_of, make_evaluation

from egup_trainer.cli.compare import COMMAND, distinct_names
from egup_trainer.evaluation.evaluation import write_evaluation


@pytest.fixture
def results(tmp_path):
    """results(cast, **changes): path of the results of one of the invented models; without its curves, to be quick."""

    def write(cast, **changes):
        path = tmp_path / f"{cast}.json"
        write_evaluation(path, replace(make_evaluation(cast, rows=12), **{"training": [], **changes}))
        return path

    return write


def compare(*words) -> dict:
    """The JSON that the command wrote to OUTPUT, its last word."""
    COMMAND.main([str(word) for word in [*words[:-1], "--output", words[-1]]])
    return json.loads(Path(words[-1]).with_suffix(".json").read_text())


def cast(document: dict) -> list[tuple[str, str]]:
    return [(model["name"], model["role"]) for model in document["models"]]


def test_files_are_written_and_main_metrics_printed(results, tmp_path, capsys):
    files = results("before"), results("egup_clreg"), results("gradient_difference")
    output = tmp_path / "out" / "report.html"
    document = compare(*files, "--retrained", results("retrained"), "--title", "My models", output)
    assert cast(document) == [
        ("before", "before"),
        ("egup_clreg", "method"),
        ("gradient_difference", "method"),
        ("retrained", "retrained"),
    ]
    assert document["title"] == "My models"
    assert sorted(path.name for path in output.parent.iterdir()) == ["report.csv", "report.html", "report.json"]
    printed = capsys.readouterr().out
    for word in ("My models", "egup_clreg", "forget p", f"Written: {output}, {output.with_suffix('.json')}"):
        assert word in printed


def test_what_relates_models_is_computed_from_the_files_given(results, tmp_path):
    files = results("before"), results("egup_clreg")
    output = tmp_path / "report.html"
    metrics = compare(*files, "--retrained", results("retrained"), output)["metrics"]
    # A model against itself: the same truth ratios, the same attack, the same features.
    assert metrics["forget_quality"]["retrained"]["value"] == 1
    assert metrics["privleak"]["retrained"]["value"] == 0
    assert metrics["entanglement_retain_cka"]["before"]["value"] == pytest.approx(1)
    assert metrics["entanglement_retain_shift"]["before"]["value"] == pytest.approx(0, abs=1e-6)
    assert metrics["forget_quality"]["before"]["value"] < 0.05 < metrics["forget_quality"]["egup_clreg"]["value"]
    assert 0 < metrics["entanglement_retain_shift"]["egup_clreg"]["value"] < 0.2


def test_one_file_alone_is_a_method(results, tmp_path):
    assert cast(compare(results("egup_clreg"), tmp_path / "report.html")) == [("egup_clreg", "method")]


def test_a_file_named_twice_is_read_once_and_that_of_the_retrained_model_only_as_such(results, tmp_path):
    before, after, retrained = results("before"), results("egup_clreg"), results("retrained")
    again = tmp_path / "." / "before.json"
    document = compare(before, after, again, retrained, "--retrained", retrained, tmp_path / "report.html")
    assert cast(document) == [("before", "before"), ("egup_clreg", "method"), ("retrained", "retrained")]


def test_models_of_one_name_are_told_apart_by_their_files(results, tmp_path):
    files = results("before", name="model"), results("egup_clreg", name="model"), results("gradient_difference")
    names = [name for name, _ in cast(compare(*files, tmp_path / "report.html"))]
    assert names == ["before", "egup_clreg", "gradient_difference"]


@pytest.mark.parametrize(
    ("names", "paths", "expected"),
    [
        (["a", "b"], ["x.json", "x.json"], ["a", "b"]),
        (["m", "m"], ["one/results.json", "two/results.json"], ["one/results", "two/results"]),
        (["m", "m", "two"], ["f/one.json", "f/two.json", "f/three.json"], ["one", "f/two", "f/three"]),
        (["m", "m"], ["x/y/r.json", "z/y/r.json"], ["r (1)", "r (2)"]),
    ],
)
def test_names_fall_back_to_the_file_then_the_folder_then_the_place(names, paths, expected):
    assert distinct_names(names, list(map(Path, paths))) == expected


def test_examples_are_shown_only_on_demand(results, tmp_path):
    files = [results(name, examples=examples_of(name)) for name in ("before", "egup_clreg")]
    output = tmp_path / "report.html"
    compare(*files, output)
    assert "Corvo" not in output.read_text()
    compare(*files, "--show_examples", output)
    assert "They live in Corvo." in output.read_text()
    assert "Corvo" not in output.with_suffix(".json").read_text() + output.with_suffix(".csv").read_text()
