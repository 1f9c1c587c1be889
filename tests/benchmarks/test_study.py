"""The study's arithmetic: distance to the retrained model, the boundary rule, options, tables."""

import json
import math
from dataclasses import fields

import pytest
from conftest import SHARED

from benchmarks import markdown
from benchmarks.study import gap10, methods, plan, report, rounds, summary
from benchmarks.study.__main__ import main
from benchmarks.study.gap10 import CAP, LEAST_UNIT
from benchmarks.study.methods import ABLATION, LEADING, METHODS, OTHERS, PARTS, SECOND, default_method, options_of
from benchmarks.study.plan import GRID, TEST_SEEDS, Record, RunSpec, Task, model_line
from benchmarks.study.rounds import Choice
from benchmarks.study.work import Place
from benchmarks.study.world import NUM_REQUESTS, ROWS_AN_AUTHOR, requests_of, rows_of
from egup_trainer import EGUPConfig

BEFORE = {
    "forget_probability": 0.9,
    "forget_truth_ratio": 0.5,
    "forget_extraction_strength": 0.5,
    "mia_min_k": 1.0,
    "model_utility": 0.51,
    "forget_quality": 1e-9,
}
RETRAINED_VALUES = {
    "forget_probability": 0.1,
    "forget_truth_ratio": 0.7,
    "forget_extraction_strength": 0.1,
    "mia_min_k": 0.6,
    "model_utility": 0.5,
    "forget_quality": 1.0,
}
MODELS = {"before": BEFORE, "retrained": RETRAINED_VALUES}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results."""
    monkeypatch.setattr(plan, "RESULTS", tmp_path)
    return tmp_path


def record(line, **values):
    Record({}, values, {}, [(0, 0.1), (5, 0.3)]).write(line)


def record_grid(method, seen, seed=0):
    """Boundary distance and retain rise at each rate."""
    for rate, (distance, rise) in zip(GRID, seen, strict=True):
        record(RunSpec(method, rate, seed).tried, boundary_distance=distance, retain_rise=rise)


def test_distance_by_hand():
    ours = {
        **RETRAINED_VALUES,
        "forget_probability": 0.3,
        "forget_truth_ratio": 0.6,
        "mia_min_k": 0.5,
        "model_utility": 0.45,
    }
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
    assert summary.gap(RETRAINED_VALUES, MODELS) == 0


# Two seeds. mia_loss: .4 and .6, then .5, .5 and .8: squares .02 and .06 over 1 + 2, so the unit is sqrt(.08 / 3).
# forget_probability: e^-6 and e^-4, then e^-5 alone: squares 2 over 1, so the unit is sqrt(2). ROUGE: alike everywhere.
FIRST_SEED = {
    "before": {"mia_loss": 1.0},
    "retrained": {"mia_loss": 0.4, "forget_probability": math.exp(-6), "forget_rouge": 0.15},
    "retrained2": {"mia_loss": 0.6, "forget_probability": math.exp(-4), "forget_rouge": 0.15},
}
SECOND_SEED = {
    "retrained": {"mia_loss": 0.5, "forget_probability": math.exp(-5), "forget_rouge": 0.2},
    "retrained2": {"mia_loss": 0.5, "forget_probability": None, "forget_rouge": 0.2},
    "retrained3": {"mia_loss": 0.8, "forget_rouge": 0.2},
}
UNIT = {"mia_loss": math.sqrt(0.08 / 3), "forget_probability": math.sqrt(2), "forget_rouge": LEAST_UNIT}


def test_unit_is_the_spread_about_each_seeds_mean_and_never_zero():
    found = gap10.units([FIRST_SEED, SECOND_SEED])
    assert found == pytest.approx(UNIT)
    assert gap10.units([{"retrained": {"mia_loss": 0.4}}]) == {}  # one model has no spread


def test_gap10_by_hand():
    ours = {"mia_loss": 0.7, "forget_probability": math.exp(-3), "forget_rouge": 0.14}
    first = gap10.offsets(ours, FIRST_SEED, UNIT)
    assert first == pytest.approx(
        {"mia_loss": 0.2 / UNIT["mia_loss"], "forget_probability": 2 / math.sqrt(2), "forget_rouge": 2}
    )
    assert gap10.gap10(ours, FIRST_SEED, UNIT) == pytest.approx((0.2 / UNIT["mia_loss"] + math.sqrt(2) + 2) / 3)
    # The mean of the second seed's: .6 by the attack, -5 of the one that has the probability.
    second = gap10.offsets(ours, SECOND_SEED, UNIT)
    assert second["mia_loss"] == pytest.approx(0.1 / UNIT["mia_loss"])
    assert second["forget_probability"] == pytest.approx(math.sqrt(2))
    assert second["forget_rouge"] == CAP  # 12 units
    closer = {**ours, "mia_loss": 0.6}
    assert gap10.gap10(closer, FIRST_SEED, UNIT) < gap10.gap10(ours, FIRST_SEED, UNIT)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0.0])
def test_what_is_missing_or_far_off_counts_as_the_cap(value):
    found = gap10.offsets({"forget_probability": value}, FIRST_SEED, {"forget_probability": 1.0})
    assert found == {"forget_probability": CAP}


def test_a_metric_that_no_retrained_model_has_is_left_out():
    assert gap10.offsets({"mia_loss": 0.5}, {"retrained": {}}, {"mia_loss": 0.1}) == {}
    assert gap10.gap10({"mia_loss": 0.5}, {"retrained": {}}, {"mia_loss": 0.1}) is None


def test_noise_floor_leaves_the_judged_model_out():
    seeds = [{"before": BEFORE, "retrained": {**RETRAINED_VALUES, "model_utility": each}} for each in (0.5, 0.6)]
    seeds[0]["retrained2"] = {**RETRAINED_VALUES, "model_utility": 0.51}
    seeds[0]["retrained3"] = {**RETRAINED_VALUES, "model_utility": 0.55}
    found = summary.noise_floor(seeds, gap10.units(seeds))
    # Only utility differs: of the old distance's five, by .01 and .05 over .05.
    assert found["gap"] == pytest.approx((0.2 / 5 + 1.0 / 5) / 2)
    # .5, .51, .55: variance .0007; each against the mean of the other two: .03, .015, .045.
    apart = (0.03 + 0.015 + 0.045) / 3 / math.sqrt(0.0007)
    assert found["gap10"] == pytest.approx(apart / 5)
    assert found["seeds"] == 1
    assert summary.noise_floor(seeds[1:], {}) == {"seeds": 0, "gap": None, "gap10": None}


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
    record_grid("wga", seen)
    assert plan.chosen_rate("wga") == chosen
    assert plan.chosen_rate("ceu") is None


def test_boundary_rule_takes_the_mean_over_the_seeds_that_are_complete(results):
    record_grid("wga", [(0.4, 0.0), (0.3, 0.0), (0.5, 0.0)])
    record_grid("wga", [(0.4, 0.0), (0.9, 0.0), (0.4, 0.3)], seed=1)  # means .4, .6, .45; the last rate's rise is .15
    record(RunSpec("wga", GRID[2], 2).tried, boundary_distance=0.0, retain_rise=0.0)  # not complete
    record_grid("wga", [(0.9, 0.0), (0.9, 0.0), (0.0, 0.0)], seed=TEST_SEEDS[0])  # must not be asked
    assert plan.seeds_with_all_rates("wga") == [0, 1]
    assert plan.chosen_rate("wga") == GRID[0]
    assert plan.chosen_rate("wga", [0]) == GRID[1]
    assert plan.chosen_rate("wga", [2, 3]) is None


def test_parts_take_the_rate_of_the_whole(results, monkeypatch):
    monkeypatch.setattr(methods, "ABLATION", ("npo+proxy+inter",))
    monkeypatch.setattr(methods, "SECOND", "npo+proxy")
    record_grid("npo+proxy", [(0.3, 0.0), (0.2, 0.0), (0.4, 0.0)])
    assert plan.chosen_rate("npo+proxy+inter") == GRID[1]
    assert plan.chosen_rate("npo") is None


def record_study():
    """Two test seeds with two retrained models, of which the second differs in utility, and a method on both."""
    for seed in TEST_SEEDS[:2]:
        record(model_line("before", seed), **BEFORE)
        record(model_line("retrained", seed), **RETRAINED_VALUES, relearning_speed=0.002)
        record(model_line("retrained2", seed), **{**RETRAINED_VALUES, "model_utility": 0.52, "forget_quality": 0.9})
    record_grid("npo", [(0.3, 0.0), (0.2, 0.0), (0.4, 0.0)])
    for seed, utility, quality in zip(TEST_SEEDS, (0.5, 0.4), (0.2, 0.01), strict=False):
        ours = {**RETRAINED_VALUES, "model_utility": utility, "forget_quality": quality, "relearning_speed": 0.006}
        record(RunSpec("npo", GRID[1], seed).evaluated, **ours, forget_rouge=0.1, fluency_repetition=0.02)


def test_summary_ends_with_what_the_aims_ask_for(results, capsys):
    record_study()
    main(["--summary"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == [
        "noise_floor", "before", "retrained", "retrained again", "npo", "default",
        "further_seeds", "other_seeds", "auto_seeds",
        "smollm2", "gemma",
    ]  # fmt: skip
    ours = found["npo"]
    assert (ours["learning_rate"], ours["seeds"], ours["tuning_seeds"]) == (GRID[1], 2, 1)
    assert ours["model_utility_ratio"] == pytest.approx({"mean": 0.9, "std": 0.2 / math.sqrt(2)})
    assert ours["gap"]["mean"] == pytest.approx(0.2)  # utility off by 0 and .1 over .05: 0 and 2 of five
    # The unit of utility is sqrt(.0002); against the mean .51: .01 and .11, both of five metrics.
    first, second = 0.01 / math.sqrt(0.0002) / 5, 0.11 / math.sqrt(0.0002) / 5
    assert ours["gap10"]["mean"] == pytest.approx((first + second) / 2)
    assert ours["forget_quality_over_05"] == 0.5
    assert ours["relearning_ratio"]["mean"] == pytest.approx(3)
    assert ours["repetition"]["mean"] == pytest.approx(0.02)
    assert ours["forget_rouge"]["mean"] == pytest.approx(0.1)
    assert ours["privleak"] is None
    assert found["noise_floor"] == pytest.approx({"seeds": 2, "gap": 0.08, "gap10": math.sqrt(2) / 5})
    assert found["retrained"]["gap"]["mean"] == 0
    assert found["retrained again"]["gap"]["mean"] == pytest.approx(found["noise_floor"]["gap"])
    assert found["retrained again"]["forget_quality"]["mean"] == pytest.approx(0.9)
    main(["--summary", "--test_seeds", str(TEST_SEEDS[1])])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["npo"]["seeds"] == 1


def test_worst_attack_is_the_furthest_either_way():
    models = {"retrained": {"mia_loss": 0.5, "mia_zlib": 0.6, "mia_gradnorm": 0.5}}
    assert summary.worst_attack({"mia_loss": 0.3, "mia_zlib": 0.7, "mia_gradnorm": None}, models) == pytest.approx(0.2)
    assert summary.worst_attack({}, models) is None


def test_a_default_is_the_method_whose_options_it_has(monkeypatch):
    default = EGUPConfig(output_dir="unused", use_cpu=True)
    own = {
        each.name: getattr(default, each.name) for each in fields(EGUPConfig) if each.name in ("npo_beta", "objective")
    }
    monkeypatch.setitem(PARTS, "same", {"proxy_constraint": True, **own})
    monkeypatch.setattr(methods, "METHODS", ("grad_diff", "npo+clreg"))
    assert default_method() is None
    monkeypatch.setattr(methods, "METHODS", ("grad_diff+proxy", "grad_diff+same"))
    assert default_method() == "grad_diff+same"


def titles(choice, results):
    place = Place("unused", results / "work")
    return {each.title: [piece.title for piece in each.pieces()] for each in rounds.rounds(place, choice)}


def test_rounds_run_what_a_few_seeds_need(results):
    choice = Choice([0, 1], [20, 21, 22], ["npo", "pdu", "wga"], num_retrained=3)
    found = titles(choice, results)
    assert list(found)[:4] == [
        "Models of tuning seeds", "Learning rates of leading methods", "Models of test seeds",
        "Runs of leading methods",
    ]  # fmt: skip
    assert found["Models of tuning seeds"] == ["before 0", "before 1"]
    assert len(found["Learning rates of leading methods"]) == 2 * 2 * len(GRID)
    assert all("seed0" in title for title in found["Learning rates of leading methods"][:6])
    assert found["Models of test seeds"] == ["models 20", "models 21", "models 22"]
    assert len(found["Runs of other objectives"]) == 3
    assert found["More retrained models"] == ["retrained3 20", "retrained3 21", "retrained3 22"]
    assert "Stress tests" not in found


def test_stress_tests_are_for_the_best_methods_and_pdu(results):
    record_study()
    choice = Choice([0], TEST_SEEDS[:1], ["npo"], 2, [Task.SCALE, Task.SEQUENCE])
    found = titles(choice, results)
    assert found["Stress tests"] == [
        f"{name}_seed{TEST_SEEDS[0]}_{task}"
        for task in ("scale", "sequence")
        for name in (f"npo_{GRID[1]:g}", f"pdu_{GRID[0]:g}")
    ]
    assert len(found["Learning rates of stress tests"]) == len(GRID)  # pdu's, which is not among the methods
    assert found["Models of stress tests"] == [f"models {TEST_SEEDS[0]}"]


def test_nothing_is_done_again_and_models_are_made_only_for_open_runs(results):
    record_study()
    place = Place("unused", results / "work")
    made = rounds.rounds(place, Choice([0], TEST_SEEDS[:2], ["npo"], 2))
    assert [len(rounds.open_pieces(each.pieces())) for each in made] == [0] * len(made)
    made = rounds.rounds(place, Choice([0], TEST_SEEDS[:2], ["npo", "pdu"], 2))
    assert [len(rounds.open_pieces(each.pieces())) for each in made] == [1, 3, 2, 2]


def test_plan_counts_what_is_open(results, capsys):
    main(["--plan", "--methods", "npo", "--tuning_seeds", "0", "--test_seeds", "20", "--retrained", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Learning rates of leading methods: 3 of 3 pieces")
    assert lines[-1].startswith("All: ")


def test_every_method_is_a_configuration(tmp_path):
    for method in METHODS:
        config = EGUPConfig(output_dir=str(tmp_path), use_cpu=True, **options_of(method))
        assert config.objective == method.split("+")[0]
    assert options_of("npo+egup+clreg")["npo_beta"] == "auto"
    assert "npo_beta" not in options_of("npo+clreg")
    assert not options_of("npo")["proxy_constraint"]
    assert len(set(METHODS)) == len(METHODS)
    assert set(ABLATION) <= {method for method in METHODS if method.startswith(SECOND)}
    assert {"npo", "grad_diff", "pdu"} <= set(LEADING)
    assert "task_vector" in OTHERS
    assert default_method() == "proxy_kl+auto"  # what runs without a learning rate


def test_tables_stand_between_their_markers():
    text = "a\n<!-- begin: x -->\nold\n<!-- end: x -->\nb"
    assert markdown.put(text, "x", "| \\1 |") == "a\n<!-- begin: x -->\n| \\1 |\n<!-- end: x -->\nb"
    with pytest.raises(ValueError, match="no place for 'y'"):
        markdown.put(text, "y", "")


def test_a_measure_is_told_of_each_seed_that_has_results(results):
    for seed, quality in ((0, 0.00021), (2, 0.5)):
        record(RunSpec("npo", GRID[1], seed).evaluated, forget_quality=quality)
    lines = report._by_seed({"npo": {"learning_rate": GRID[1]}}, "forget_quality", ["npo"], [0, 1, 2]).splitlines()
    assert lines[0] == "| method | seed 0 | seed 1 | seed 2 |"
    assert lines[2:] == ["| `npo` | 0.00021 |  | 0.5 |"]


def test_tables_and_figure_are_made_of_the_results(results, tmp_path, monkeypatch):
    record_study()
    for line in (*(model_line(name, TEST_SEEDS[0]) for name in ("before", "retrained")),):
        values = Record.read(line).values
        record(line, **values, l_answer=1.0, l_paraphrase=2.0, l_wrong=2.5)
    for seed in TEST_SEEDS[1:2]:
        for line in (model_line("before", seed), model_line("retrained", seed)):
            record(line, **Record.read(line).values, l_answer=3.0, l_paraphrase=4.0, l_wrong=4.5)
    for seed in TEST_SEEDS[:2]:
        line = RunSpec("npo", GRID[1], seed).evaluated
        record(line, **Record.read(line).values, l_answer=1.0, l_paraphrase=2.0, l_wrong=3.0)
    names = ("headline", "units", "attacks", "seeds", "wordings", "ablation", "auto", "others", "scale", "sequence")
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    marks = ((f"<!-- {side}: second edition, {name} -->" for side in ("begin", "end")) for name in names)
    page.write_text("".join("\n".join(each) + "\n" for each in marks))
    monkeypatch.setattr(report, "DOCS", page.parent)
    report.write_report()
    text = page.read_text()
    assert "| `npo` | 0.001 | 2 | " in text
    assert "| `before` | 2.00 | 3.00 | 3.50 | -0.50 |" in text
    assert "| model_utility | 0.014 | 1.4 | 0.0 | 4.2 |" in text  # units: retrained, before, npo
    assert (page.parent / "images" / "study_second.png").stat().st_size > 1000


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


def test_the_larger_forget_set_has_the_smaller_one_and_leaves_the_rest_alone(tofu):
    tofu("full")
    folder = str(SHARED / "data" / "tofu")
    small, large = rows_of(0, folder), rows_of(0, folder, is_large=True)
    assert len(large.forget) == NUM_REQUESTS * len(small.forget)
    assert {row.answer for row in small.forget} < {row.answer for row in large.forget}
    assert large.retain == small.retain
    assert large.proxy == small.proxy
    assert large.holdout == small.holdout
    requests = requests_of(large)
    assert [row for request in requests for row in request.forget] == large.forget
    assert [len(request.forget) for request in requests] == [3 * ROWS_AN_AUTHOR] * NUM_REQUESTS
    assert all(request.retain == large.retain for request in requests)
