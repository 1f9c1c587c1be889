"""The study's arithmetic: distance to the retrained model, the boundary rule, options, tables."""

import json

import pytest
from conftest import SHARED

from benchmarks import markdown
from benchmarks.study import plan, report, summary
from benchmarks.study.methods import ABLATION, HEADLINE, ablation_of, options_of
from benchmarks.study.plan import GRID, SEEDS, Record, RunSpec
from benchmarks.study.world import ROWS_AN_AUTHOR, rows_of
from egup_trainer import EGUPConfig

BEFORE = {
    "forget_probability": 0.9,
    "forget_truth_ratio": 0.5,
    "forget_extraction_strength": 0.5,
    "mia_min_k": 1.0,
    "model_utility": 0.51,
    "forget_quality": 1e-9,
}
RETRAINED = {
    "forget_probability": 0.1,
    "forget_truth_ratio": 0.7,
    "forget_extraction_strength": 0.1,
    "mia_min_k": 0.6,
    "model_utility": 0.5,
    "forget_quality": 1.0,
}
MODELS = {"before": BEFORE, "retrained": RETRAINED}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results."""
    monkeypatch.setattr(plan, "RESULTS", tmp_path)
    return tmp_path


def record(line, **values):
    Record({}, values, {}, [(0, 0.1), (5, 0.3)]).write(line)


def test_distance_by_hand():
    ours = {**RETRAINED, "forget_probability": 0.3, "forget_truth_ratio": 0.6, "mia_min_k": 0.5, "model_utility": 0.45}
    found = summary.distances(ours, MODELS)
    # Utility: .05 over a tenth of .5, not over the .01 between the two models.
    assert found == pytest.approx(
        {
            "forget_probability": 0.25,
            "forget_truth_ratio": 0.5,
            "forget_extraction_strength": 0,
            "mia_min_k": 0.25,
            "model_utility": 1,
        }
    )
    assert summary.gap(ours, MODELS) == pytest.approx(0.4)
    assert summary.distances(ours, MODELS, least_scale=0)["model_utility"] == pytest.approx(5)
    assert summary.gap(RETRAINED, MODELS) == 0


@pytest.mark.parametrize(
    ("seen", "chosen"),
    [
        ([(0.4, 0.05), (0.2, 0.09), (0.1, 0.5)], GRID[1]),  # nearest to the proxies where retain rows hold
        ([(0.4, 0.05), (0.2, 0.11), (0.1, 0.5)], GRID[0]),
        ([(0.4, 0.3), (0.2, 0.2), (0.1, 0.5)], GRID[1]),  # they hold nowhere: best is where they hold best
        ([(0.4, -0.3), (0.3, 0.0), (0.2, 0.1)], GRID[2]),  # a fall of the retain loss is no merit
    ],
)
def test_boundary_rule(results, seen, chosen):
    for rate, (distance, rise) in zip(GRID, seen, strict=True):
        # A retrained model that would rather have the first rate must not be asked.
        record(RunSpec("wga", rate, 0).trained, boundary_distance=distance, retain_rise=rise, retrained_distance=rate)
    assert plan.chosen_rate("wga") == chosen
    assert plan.chosen_rate("ceu") is None


def test_parts_take_the_rate_of_the_whole(results):
    for rate, distance in zip(GRID, (0.3, 0.2, 0.4), strict=True):
        record(RunSpec("npo+egup+clreg", rate, 0).trained, boundary_distance=distance, retain_rise=0.0)
    assert plan.chosen_rate("npo+proxy+inter") == GRID[1]
    assert plan.chosen_rate("npo") is None


def test_summary_has_mean_and_spread_over_seeds(results):
    for seed in SEEDS:
        for name, values in MODELS.items():
            record(plan.model_line(name, seed), **values)
    for rate, distance in zip(GRID, (0.3, 0.2, 0.4), strict=True):
        record(RunSpec("npo", rate, 0).trained, boundary_distance=distance, retain_rise=0.0)
    for seed, utility in zip(SEEDS, (0.5, 0.4, 0.3), strict=True):
        record(RunSpec("npo", GRID[1], seed).evaluated, **{**RETRAINED, "model_utility": utility})
    found = json.loads(json.dumps(summary.summary()))
    assert set(found) == {"before", "retrained", "npo"}
    assert (found["npo"]["learning_rate"], found["npo"]["seeds"]) == (GRID[1], 3)
    assert found["npo"]["model_utility_ratio"] == pytest.approx({"mean": 0.8, "std": 0.2})
    assert found["npo"]["gap"] == pytest.approx({"mean": 0.4, "std": 0.4})  # utility off by 0, .1, .2: 0, 2, 4 of five
    assert found["retrained"]["forget_quality"] == {"mean": 1, "std": 0}
    assert found["npo"]["privleak"] is None


def test_every_method_is_a_configuration(tmp_path):
    methods = [*HEADLINE, *(method for objective in ABLATION for method in ablation_of(objective))]
    for method in methods:
        config = EGUPConfig(output_dir=str(tmp_path), use_cpu=True, **options_of(method))
        assert config.objective == method.split("+")[0]
    assert options_of("npo+egup+clreg")["npo_beta"] == "auto"
    assert "npo_beta" not in options_of("npo+clreg")
    assert not options_of("npo")["proxy_constraint"]


def test_tables_stand_between_their_markers():
    text = "a\n<!-- begin: x -->\nold\n<!-- end: x -->\nb"
    assert markdown.put(text, "x", "| \\1 |") == "a\n<!-- begin: x -->\n| \\1 |\n<!-- end: x -->\nb"


def test_a_measure_is_told_of_each_seed_that_has_results(results):
    for seed, quality in ((0, 0.00021), (2, 0.5)):
        record(RunSpec("npo", GRID[1], seed).evaluated, forget_quality=quality)
    lines = report._by_seed({"npo": {"learning_rate": GRID[1]}}, "forget_quality", ["npo", "npo+egup"]).splitlines()
    assert lines[0] == "| method | seed 0 | seed 1 | seed 2 |"
    assert lines[2:] == ["| `npo` | 0.00021 |  | 0.5 |"]


def test_seeds_draw_their_own_authors(tofu):
    tofu("full")  # skips where the rows are not at hand
    folder = str(SHARED / "data" / "tofu")
    drawn = [rows_of(seed, folder) for seed in (0, 1)]
    assert [row.answer for row in drawn[0].forget] != [row.answer for row in drawn[1].forget]
    for rows in drawn:
        names = [
            {row.prompt[0].content for row in getattr(rows, name)} for name in ("forget", "retain", "proxy", "holdout")
        ]
        assert sum(map(len, names)) == len(set().union(*names))  # no row has two roles
        assert {row.answer for row in rows.judged} <= {row.answer for row in rows.retain}
        assert all(len(row.perturbed) == 5 and row.paraphrase for row in rows.judged)
        assert all(len(row.perturbed) == 4 and not {*row.alternates} & {*row.perturbed} for row in rows.forget)
        assert len(rows.forget) == len(rows.judged) == 3 * ROWS_AN_AUTHOR
    assert rows_of(0, folder) == drawn[0]
