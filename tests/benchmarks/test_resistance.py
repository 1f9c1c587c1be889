"""The variants of the default method that are to resist relearning: each by hand, then all from rows to table."""

import pytest
from conftest import SHARED
from fixtures_study import make_study_small

from benchmarks import resistance
from benchmarks.resistance import DEFAULT, DROPPED, MODELS, VARIANTS, line_of
from benchmarks.study.plan import Record
from benchmarks.study.work import Place


@pytest.fixture
def place(tofu, tmp_path, monkeypatch):
    """An author of each kind, a model that learns next to nothing, and an empty table."""
    tofu("full")  # skips where the rows are not at hand
    monkeypatch.setattr(resistance, "TABLE", tmp_path / "resistance.jsonl")
    make_study_small(monkeypatch)
    return Place(str(SHARED / "data" / "tofu"), tmp_path / "work")


def test_changes_are_those_of_a_seed_to_the_default_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(resistance, "TABLE", tmp_path / "resistance.jsonl")
    speeds = {"before": (9.0, 9.0), "retrained": (1.0, 2.0), DEFAULT: (5.0, 8.0), "masked": (4.0, 4.0)}
    others = dict.fromkeys(("depth", "l_forget", "l_holdout", "l_other", "boundary_distance", "retain_rise"), 0.5)
    for name, of_seeds in speeds.items():
        for seed, speed in enumerate(of_seeds):
            Record({}, {**others, "relearning_speed": speed}, {}).write(line_of(name, seed))
    Record({}, {**others, "relearning_speed": 1.0}, {}).write(line_of("twice", 0))
    head, _, *rows = [row.split(" | ") for row in resistance.table().splitlines()]
    found = {row[0].removeprefix("| "): dict(zip(head[1:4], row[1:4], strict=True)) for row in rows}
    assert found[VARIANTS[DEFAULT].title] == {"seeds": "2", "relearning": "4.50 ± 0.71", "change": ""}
    # 4 / 1 - 5 / 1 = -1 and 4 / 2 - 8 / 2 = -2
    assert found[DROPPED["masked"]] == {"seeds": "2", "relearning": "3.00 ± 1.41", "change": "-1.50 ± 0.71"}
    assert found[VARIANTS["twice"].title] == {"seeds": "1", "relearning": "1.00", "change": "-4.00"}


def test_a_report_puts_the_table_into_the_page_and_runs_nothing(tmp_path, monkeypatch):
    markers = "<!-- begin: resistance -->", "<!-- end: resistance -->"
    text = resistance.PAGE.read_text(encoding="utf-8")
    assert [text.count(marker) for marker in markers] == [1, 1]
    page = tmp_path / "page.md"
    page.write_text("Before.\n{}\nold\n{}\nAfter.\n".format(*markers), encoding="utf-8")
    monkeypatch.setattr(resistance, "PAGE", page)
    monkeypatch.setattr(resistance, "_run", lambda options: pytest.fail("run"))
    resistance.main(["--report"])
    begin, end = markers
    assert page.read_text(encoding="utf-8") == f"Before.\n{begin}\n{resistance.table()}\n{end}\nAfter.\n"


@pytest.mark.slow
def test_all_variants_from_rows_to_table(place):
    resistance.main(["--data_dir", place.data_dir, "--work_dir", str(place.work_dir), "--seeds", "0"])
    values = {name: Record.read(line_of(name, 0)).values for name in (*MODELS, *VARIANTS)}
    assert values["before"]["retain_rise"] == pytest.approx(0, abs=1e-6)
    assert values["retrained"]["depth"] == pytest.approx(1)
    assert len({round(found["l_forget"], 6) for found in values.values()}) == len(values)
    assert not resistance.run_first_piece(resistance.pieces(place, list(VARIANTS), [0]))
    assert f"| {VARIANTS[DEFAULT].title} | 1 |" in resistance.table()
