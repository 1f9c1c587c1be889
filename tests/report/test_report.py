"""Results as JSON, table and picture."""

import json

import pytest
from rich.console import Console

from egup_trainer.records.facts import run_facts
from egup_trainer.report.comparison import comparison_table, format_probability, plot_comparison
from egup_trainer.report.run_record import ResultRow, write_results

ROWS = [
    ResultRow("before", {"forget_probability": 0.9, "retain_probability": 0.95, "seconds": 1.25}),
    ResultRow("gradient_difference", {"forget_probability": 1e-12, "retain_probability": 0.4, "seconds": 2.0}),
    ResultRow("retrained", {"forget_probability": 0.02, "retain_probability": 0.97, "seconds": None}),
]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.001, "0.0010"),
        (0.0034, "0.0034"),
        (0.01, "0.010"),
        (0.00099, "9.9e-04"),
        (1.0, "1.000"),
        (None, "-"),
    ],
)
def test_probabilities_are_short_and_never_rounded_to_nothing(value, text):
    assert format_probability(value) == text


def test_the_table_shows_every_model_on_a_narrow_terminal():
    console = Console(width=80, record=True)
    console.print(comparison_table(ROWS, "Title"))
    text = console.export_text()
    for word in ("Title", "before", "gradient_difference", "1.0e-12", "0.970", "p(forget)"):
        assert word in text


def test_results_are_written_whole_with_schema_and_facts(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_results(path, ROWS, run_facts(command="egup demo", settings={"seed": 1}))
    document = json.loads(path.read_text())
    assert document["schema_version"] == 1
    assert document["rows"][1] == {"name": "gradient_difference", "metrics": ROWS[1].metrics}
    assert document["run"]["settings"] == {"seed": 1}
    assert {"torch", "transformers", "python"} <= document["run"]["versions"].keys()
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_number_that_is_none_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, ROWS, {})
    old = path.read_text()
    with pytest.raises(ValueError, match="JSON"):
        write_results(path, [ResultRow("x", {"forget_probability": float("nan")})], {})
    assert path.read_text() == old


def test_the_picture_has_a_point_for_each_model(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    points = []
    plain = Axes.scatter

    def scatter(self, x, y, **kwargs):
        points.append((x, y, kwargs["marker"]))
        return plain(self, x, y, **kwargs)

    monkeypatch.setattr(Axes, "scatter", scatter)
    plot_comparison(ROWS, tmp_path / "plot.png", "Title")
    assert points == [(0.9, 0.95, "o"), (1e-8, 0.4, "<"), (0.02, 0.97, "*")]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
