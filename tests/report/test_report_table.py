"""The comparison as data: goals, the best, distances, and the same as JSON, as CSV and for the terminal."""

import csv
import io
import json

import pytest
from fixtures_report import make_evaluation, make_evaluations
from rich.console import Console

from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.evaluation import Evaluation, SetFacts
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.metric_registry import declared_metrics
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.page import to_csv, to_json
from egup_trainer.report.table import Goal, describe, main_table, sections, table_parts


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


def rows_of(comparison: Comparison) -> list:
    return [row for part in table_parts(comparison).values() for row in part]


def only_row(comparison: Comparison):
    (row,) = rows_of(comparison)
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
        # Without a retrained model: the lowest of what was to be forgotten is no better than others.
        (models("forget_probability", False, 0.001, 0.2, 0.1), Goal.RETRAINED, []),
        (models("mia_loss", None, 1.0, 0.3, 0.5), Goal.RETRAINED, []),
        (models("mine", None, 1.0, 0.3, 0.5), Goal.NONE, []),
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
    attacks += ["semantic_similarity", "merging_halfway_forget_probability", "depth_score", "soft_prompts_excess"]
    attacks += ["prompt_search_excess", "worst_prompt_excess"]
    names += [*attacks, "quantization_4bit_forget_probability", "relearning_forget_speed"]
    comparison = Comparison.of([model("a", **{name: Metric(0.5, True) for name in names})], None)
    parts = {section: [row.metric for row in part] for section, part in table_parts(comparison).items()}
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
        "Quantization": ["quantization_4bit_forget_probability"],
        "Merging": ["merging_halfway_forget_probability"],
        "Prompts": ["prompts_plain_rouge"],
        "Depth": ["depth_score"],
        "Soft prompts": ["soft_prompts_excess"],
        "Prompt search": ["prompt_search_excess"],
        "Worst prompt": ["worst_prompt_excess"],
        "Sampling": ["sampling_best_rouge"],
        "Meaning": ["semantic_similarity"],
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


@pytest.mark.parametrize(
    ("evaluations", "retrained", "got"),
    [([], "r", "no results"), (["x", "y"], "x", "two models named x")],
)
def test_no_results_and_two_models_of_one_name_are_refused(evaluations, retrained, got):
    with pytest.raises(ConfigError) as error:
        Comparison.of(list(map(model, evaluations)), model(retrained))
    assert error.value.got == got


def test_no_name_is_a_formula_in_the_csv():
    written = {"=HYPERLINK(1)": "'=HYPERLINK(1)", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "  =1": "  '=1"}
    written |= {"\t=1": "\t'=1", "a;=1": "a;'=1", "\uff1d1": "'\uff1d1", "a=1-b": "a=1-b"}
    models = [model(name, forget_rouge=Metric(-0.5, False)) for name in written]
    lines = list(csv.DictReader(io.StringIO(to_csv(rows_of(Comparison.of(models, None))))))
    assert [line["model"] for line in lines] == list(written.values())
    assert {line["value"] for line in lines} == {"-0.5"}


def test_the_csv_has_a_line_a_model_and_metric():
    comparison = models("forget_rouge", False, 0.5, 0.25, None, retrained=0.125)
    assert to_csv(rows_of(comparison)) == (
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
    rows = rows_of(comparison)
    document = json.loads(to_json(comparison, rows, "Title"))
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
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(lines) == 4 * len(document["metrics"])
    for line in lines:
        cell = document["metrics"][line["metric"]][line["model"]]
        assert line["value"] == ("" if cell["value"] is None else str(cell["value"]))
    assert document.keys() == {
        *("kind", "schema_version", "title", "note", "verdict", "forget_rows", "remarks", "models", "metrics")
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
