"""The comparison as data: goals, the best, distances, words, and the same as JSON, CSV and for the terminal."""

import csv
import io
import json
from math import nan

import pytest
from fixtures_report import make_evaluation, make_evaluations
from rich.console import Console

from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.evaluation import Evaluation, SetFacts
from egup_trainer.evaluation.metric import Metric, mean_metric, unavailable
from egup_trainer.evaluation.registry import declared_metrics
from egup_trainer.report.labels import describe, sections
from egup_trainer.report.models import Comparison, Role
from egup_trainer.report.page import to_csv, to_json
from egup_trainer.report.table import Goal, main_table, table_parts
from egup_trainer.report.verdict import sentences


def model(name: str, **metrics: Metric) -> Evaluation:
    return Evaluation(name, "custom", None, {"forget": SetFacts(3, "f" * 16)}, metrics)


def models(metric: str, higher_is_better: bool | None, before: float, *methods: float | None, retrained=None):
    """A comparison of one metric; methods are called a, b, ..."""
    found = [model("before", **{metric: Metric(before, higher_is_better)})]
    found += [
        model(name, **{metric: Metric(value, higher_is_better, reason=None if value is not None else "no rows")})
        for name, value in zip("abc", methods)
    ]
    aim = None if retrained is None else model("twin", **{metric: Metric(retrained, higher_is_better)})
    return Comparison.of(found, aim)


def only_row(comparison: Comparison):
    ((row,),) = (part.rows for part in table_parts(comparison))
    return row


def best(comparison: Comparison) -> list[str]:
    return [name for name, cell in only_row(comparison).cells.items() if cell.best]


@pytest.mark.parametrize(
    ("comparison", "goal", "names"),
    [
        # On forgetting: nearest to the retrained model, although another is lower.
        (models("forget_probability", False, 0.9, 1e-9, 0.05, retrained=0.04), Goal.RETRAINED, ["b"]),
        (models("mia_loss", None, 1.0, 0.3, 0.48, retrained=0.5), Goal.RETRAINED, ["b"]),
        (models("privleak", None, -90.0, -12.0, 11.0, retrained=0.0), Goal.RETRAINED, ["b"]),
        (models("entanglement_probe_auc", None, 0.7, 0.99, 0.8, retrained=0.75), Goal.RETRAINED, ["b"]),
        (models("entanglement_retain_cka", True, 1.0, 0.9, 0.6, retrained=0.5), Goal.HIGHER, ["a"]),
        (models("mia_of_mine", True, 1.0, 0.9, 0.6, retrained=0.5), Goal.RETRAINED, ["b"]),
        # Not on forgetting: as higher_is_better says, whatever the retrained model has.
        (models("retain_probability", True, 0.99, 0.9, 0.8, retrained=0.7), Goal.HIGHER, ["a"]),
        (models("fluency_perplexity", False, 1.0, 9.0, 8.0, retrained=9.0), Goal.LOWER, ["b"]),
        # Unknown, and only nearness counts.
        (models("mine", None, 0.0, 4.0, 1.0, retrained=3.0), Goal.RETRAINED, ["a"]),
        # Without a retrained model.
        (models("forget_probability", False, 0.001, 0.2, 0.1), Goal.LOWER, ["b"]),
        (models("mia_loss", None, 1.0, 0.3, 0.5), Goal.NONE, []),
        # One rival alone, and a tie.
        (models("retain_rouge", True, 0.9, 0.8), Goal.HIGHER, []),
        (models("retain_rouge", True, 0.9, 0.8, None), Goal.HIGHER, []),
        (models("retain_rouge", True, 0.9, 0.8, 0.7, 0.8), Goal.HIGHER, ["a", "c"]),
    ],
)
def test_the_best_method_is_the_one_nearest_to_the_goal(comparison, goal, names):
    assert only_row(comparison).goal is goal
    assert best(comparison) == names


def test_without_its_value_of_the_retrained_model_the_direction_counts():
    comparison = models("forget_quality", True, 1e-9, 0.2, 0.4, retrained=0.5)
    assert best(comparison) == ["b"]
    lacking = model("twin", forget_quality=unavailable("no perturbed answers", True))
    comparison = Comparison.of([each.evaluation for each in comparison.models[:3]], lacking)
    assert (only_row(comparison).goal, best(comparison)) == (Goal.HIGHER, ["b"])
    assert only_row(comparison).cells["a"].distance is None


def test_a_cell_has_value_interval_counts_reason_and_distance():
    metric = Metric(0.25, False, num_samples=3, num_skipped=1, interval=(0.125, 0.5))
    comparison = Comparison.of(
        [model("before", forget_rouge=metric), model("a", forget_rouge=unavailable("no prompts", False)), model("b")],
        model("twin", forget_rouge=Metric(0.75, False, num_samples=4)),
    )
    cells = only_row(comparison).cells
    assert list(cells) == ["before", "a", "b", "twin"]
    assert (cells["before"].metric, cells["before"].distance) == (metric, 0.5)
    assert (cells["before"].samples, cells["twin"].samples) == ("3 of 4 rows", "4 rows")
    assert only_row(comparison).samples is None
    assert (cells["a"].metric.value, cells["a"].metric.reason, cells["a"].distance) == (None, "no prompts", None)
    assert cells["b"].metric.reason == "not evaluated for this model"
    assert cells["twin"].distance == 0


def test_rows_stand_in_sections_in_the_order_of_reading():
    names = [
        "zeta",
        "lm_eval_arc_easy_acc",
        "fluency_perplexity",
        "entanglement_retain_cka",
        "mia_loss",
        "holdout_rouge",
    ]
    names += ["retain_rouge", "retain_probability", "forget_rouge", "forget_quality", "model_utility", "alpha"]
    attacks = ["membership_loss", "probe_layer_2_auc", "sampling_best_rouge", "prompts_plain_rouge"]
    names += [*attacks, "quantization_4bit_forget_probability", "relearning_forget_speed"]
    comparison = Comparison.of([model("a", **{name: Metric(0.5, True) for name in names})], None)
    parts = {part.section: [row.metric for row in part.rows] for part in table_parts(comparison)}
    assert parts == {
        "Summary": ["model_utility", "forget_quality"],
        "Forget set": ["forget_rouge"],
        "Retain set": ["retain_probability", "retain_rouge"],
        "Other rows": ["holdout_rouge"],
        "Membership": ["mia_loss"],
        "Representation": ["entanglement_retain_cka"],
        "Fluency": ["fluency_perplexity"],
        "Benchmarks": ["lm_eval_arc_easy_acc"],
        "Relearning": ["relearning_forget_speed"],
        "Quantisation": ["quantization_4bit_forget_probability"],
        "Prompts": ["prompts_plain_rouge"],
        "Sampling": ["sampling_best_rouge"],
        "Probe": ["probe_layer_2_auc"],
        "Membership attacks": ["membership_loss"],
        "Other": ["zeta", "alpha"],
    }
    assert list(parts) == sections()


def test_every_declared_metric_has_a_label_and_a_meaning_that_fit_a_line():
    for spec in declared_metrics():
        text = describe(f"forget_{spec.name}" if spec.section is None else spec.name)
        assert (text.label, text.meaning) == (spec.label, spec.meaning)
        assert text.meaning.endswith((".", ")."))
        assert len(text.meaning) < 120


def test_the_label_of_a_metric_of_a_row_set_names_the_set():
    assert describe("world_facts_rouge").label == "ROUGE-L, world facts"
    assert describe("forget_truth_ratio").label == "Truth ratio"
    knowledge = describe("retain_knowmem_rouge")
    assert (knowledge.section, knowledge.label, knowledge.term) == ("Retain set", "ROUGE-L, knowledge", "ROUGE-L")


def test_roles_follow_from_the_order_and_one_alone_is_a_method():
    comparison = Comparison.of([model("x"), model("y"), model("z")], model("r"))
    assert [each.role for each in comparison.models] == [Role.BEFORE, Role.METHOD, Role.METHOD, Role.RETRAINED]
    alone = Comparison.of([model("x")], None)
    assert (alone.before, alone.retrained, [each.name for each in alone.methods]) == (None, None, ["x"])


def test_no_results_and_two_models_of_one_name_are_refused():
    with pytest.raises(ConfigError) as error:
        Comparison.of([], model("r"))
    assert str(error.value) == "Got no results, but expected those of one model or more. Name a file of results."
    with pytest.raises(ConfigError) as error:
        Comparison.of([model("x"), model("y")], model("x"))
    assert str(error.value) == "Got two models named x, but expected a name for each. Rename one of them."


def test_a_sentence_tells_of_forgetting_and_utility_beside_the_other_models():
    def with_numbers(name, forget, utility, interval=None):
        return model(
            name, forget_probability=Metric(forget, False, interval=interval), model_utility=Metric(utility, 1)
        )

    others = [with_numbers("before", 0.955, 0.66), with_numbers("egup", 0.024, 0.61), with_numbers("gd", 1e-9, 0.5)]
    others += [with_numbers("npo", 0.3, 0.6)]
    found = sentences(Comparison.of(others, with_numbers("twin", 0.042, 0.63, interval=(0.02, 0.06))))
    beside, utility = "(retrained 0.042, before 0.955)", "(retrained 0.630, before 0.660)"
    assert found == {
        "egup": f"forget probability 0.024 {beside}; model utility 0.610 {utility}. "
        "It forgets as far as the retrained model: within its 95% interval.",
        "gd": f"forget probability 1.0e-09 {beside}; model utility 0.500 {utility}. "
        "It forgets further than the retrained model: below its 95% interval.",
        "npo": f"forget probability 0.300 {beside}; model utility 0.600 {utility}. "
        "It forgets less than the retrained model: above its 95% interval.",
    }


def of_rows(name, metric, values, num_rows=8, set_name="forget", **others):
    kept = dict(enumerate(values)) if isinstance(values, list) else values
    metrics = {metric: mean_metric(set_name, kept, num_rows=num_rows, higher_is_better=False, without="no row has it")}
    return model(name, **metrics, **others)


TWIN = of_rows("twin", "forget_probability", [0.03, 0.05, 0.04, 0.03, 0.2, 0.03, 0.04, 0.05])
BEFORE = of_rows("before", "forget_probability", [0.9] * 8)


def test_rows_above_the_retrained_models_own_range_are_named():
    """Two rows of eight at .5 were "as far as the retrained model": the mean hid them."""
    hidden = of_rows("hidden", "forget_probability", [0.01, 0.5, 0.01, 0.01, 0.01, 0.51, 0.01, 0.01])
    even = of_rows("even", "forget_probability", [0.06] * 7 + [0.2])  # .2 is the highest, not above it
    comparison = Comparison.of([BEFORE, hidden, even], TWIN)
    found = sentences(comparison)
    assert found["hidden"].endswith(
        "(retrained 0.059, before 0.900). On average it forgets less than the retrained model: above its 95% interval. "
        "2 of 8 rows are above the highest value of the retrained model (0.200): rows 5 (0.510), 1 (0.500)."
    )
    assert found["even"].endswith(
        "It forgets as far as the retrained model: within its 95% interval. "
        "No row is above the highest value of the retrained model (0.200)."
    )
    rows = json.loads(to_json(comparison, table_parts(comparison), "Title"))["forget_rows"]["hidden"]
    assert (rows["above"], rows["highest"], rows["num_rows"]) == ({"5": 0.51, "1": 0.5}, 0.2, 8)


def test_without_a_retrained_model_the_rows_never_seen_give_the_range():
    never_seen = {
        "holdout_probability": mean_metric("holdout", {0: 0.1}, num_rows=1, higher_is_better=None, without="")
    }
    ours = of_rows("ours", "forget_probability", [0.05, 0.11], num_rows=2, **never_seen)
    assert sentences(Comparison.of([ours], None))["ours"] == (
        "forget probability 0.080. "
        "1 of 2 rows is above the highest value of the rows never seen (0.100): row 1 (0.110)."
    )


def test_rows_without_a_number_are_named_and_never_taken_for_forgotten():
    some = of_rows("some", "forget_probability", {0: 0.04, 2: 0.04, 3: nan}, num_rows=4)
    none = of_rows("none", "forget_probability", {0: nan}, num_rows=4, forget_rouge=Metric(0.0, False))
    found = sentences(Comparison.of([some], TWIN))["some"], sentences(Comparison.of([none], None))["none"]
    assert found[0].endswith("(0.200). 2 of 4 rows are without a number: rows 1, 3.")
    assert found[1] == "no forget probability (no row has a finite number); forget rouge 0.000."


def test_many_rows_are_counted_and_twenty_named():
    ours = of_rows("ours", "forget_probability", [0.5 + row / 1000 for row in range(30)], num_rows=30)
    sentence = sentences(Comparison.of([ours], TWIN))["ours"]
    assert "30 of 30 rows are above" in sentence
    assert sentence.endswith("11 (0.511), 10 (0.510) and 10 more.")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "  '=1"),
        ("\t=1", "\t'=1"),
        ("a;=1", "a;'=1"),
        ("\uff1d1", "'\uff1d1"),
        ("a=1-b", "a=1-b"),
    ],
)
def test_no_name_is_a_formula_in_the_csv(name, written):
    text = to_csv(table_parts(Comparison.of([model(name, forget_rouge=Metric(-0.5, False))], None)))
    (line,) = csv.DictReader(io.StringIO(text))
    assert (line["model"], line["value"]) == (written, "-0.5")


def test_a_sentence_takes_what_the_suite_has():
    muse = model("a", forget_verbmem_rouge=Metric(0.25, False), retain_knowmem_rouge=Metric(0.5, True))
    assert sentences(Comparison.of([muse], None)) == {"a": "forget verbmem rouge 0.250; retain knowmem rouge 0.500."}
    assert sentences(Comparison.of([model("a")], None)) == {"a": "neither forgetting nor utility was evaluated."}


def test_the_csv_has_a_line_a_model_and_metric():
    comparison = models("forget_rouge", False, 0.5, 0.25, None, retrained=0.125)
    assert to_csv(table_parts(comparison)) == (
        "model,metric,value,low,high,num_samples,num_skipped,reason,distance_to_retrained,best\n"
        "before,forget_rouge,0.5,,,0,0,,0.375,False\n"
        "a,forget_rouge,0.25,,,0,0,,0.125,False\n"
        "b,forget_rouge,,,,0,0,no rows,,False\n"
        "twin,forget_rouge,0.125,,,0,0,,0.0,False\n"
    )
    assert len(to_csv([]).splitlines()) == 1


def test_json_and_csv_hold_the_numbers_of_the_table_and_no_text_of_a_row():
    evaluations, retrained = make_evaluations()
    comparison = Comparison.of(evaluations, retrained)
    parts = table_parts(comparison)
    document = json.loads(to_json(comparison, parts, "Title"))
    assert (document["kind"], document["schema_version"], document["title"]) == ("egup_trainer comparison", 1, "Title")
    assert document["note"] == "Approximate unlearning: no formal guarantee."
    assert [(each["name"], each["role"]) for each in document["models"]] == [
        ("before", "before"),
        ("gradient_difference", "method"),
        ("egup_clreg", "method"),
        ("retrained", "retrained"),
    ]
    assert document["models"][0]["sets"]["forget"] == {"num_rows": 60, "cut": 0, "in_windows": 0}
    cell = document["metrics"]["forget_probability"]["egup_clreg"]
    metric = evaluations[2].metrics["forget_probability"]
    assert (cell["value"], [cell["low"], cell["high"]]) == (metric.value, list(metric.interval))
    assert cell["best"] is True
    lines = list(csv.DictReader(io.StringIO(to_csv(parts))))
    assert len(lines) == 4 * len(document["metrics"])
    for line in lines:
        cell = document["metrics"][line["metric"]][line["model"]]
        assert line["value"] == ("" if cell["value"] is None else str(cell["value"]))
    assert document.keys() == {
        *("kind", "schema_version", "title", "note", "summary", "forget_rows", "remarks", "models", "metrics")
    }
    assert document["models"][0].keys() == {"name", "role", "suite", "split", "sets", "run"}


def test_the_terminal_shows_main_metrics_with_the_best_in_bold_and_names_as_they_are():
    evaluations = [make_evaluation("before"), make_evaluation("gradient_difference"), make_evaluation("egup_clreg")]
    evaluations.append(model("[red]odd[/red]"))
    table = main_table(table_parts(Comparison.of(evaluations, make_evaluation("retrained"))), "Title")
    names, *columns = table.columns
    assert [str(name) for name in names.cells] == [
        "before",
        "gradient_difference",
        "egup_clreg",
        "[red]odd[/red]",
        "retrained",
    ]
    headings = [column.header for column in columns]
    assert headings == ["forget p", "retain p", "model utility", "forget quality", "privleak"]
    assert [[cell.style for cell in column.cells] for column in columns] == 5 * [["", "", "bold", "", ""]]
    assert [str(cell) for cell in columns[3].cells] == ["3.1e-14", "2.4e-06", "0.390", "-", "1.000"]
    console = Console(width=100, record=True)
    console.print(table)
    assert "[red]odd[/red]" in console.export_text()
