"""The section on audits: who stands in it and how, its curves, its table, and what was not run."""

import csv
import json
from dataclasses import replace

import pytest
from fixtures_audit import invented_audit
from fixtures_report import make_evaluation
from test_report_page import Page, render

from egup_trainer.audit.attack import Finding
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.evaluation.metric import Metric
from egup_trainer.report.audits import audit_section
from egup_trainer.report.comparison import Comparison, Role
from egup_trainer.report.page import write_report
from egup_trainer.report.plots.drawing import looks
from egup_trainer.report.table import describe

LEVELS = {"egup_clreg": 0.2, "gradient_difference": 0.6}


@pytest.fixture(scope="module")
def evaluations():
    return [replace(make_evaluation(name, rows=12), training=[]) for name in ("before", *LEVELS)]


@pytest.fixture(scope="module")
def audits():
    beside = {"retrained": invented_audit("retrained", 0.1), "before": invented_audit("before", 0.9)}
    first, second = (invented_audit(name, level) for name, level in LEVELS.items())
    return [replace(first, **beside), second]


def test_models_stand_in_the_order_of_columns_and_look_as_elsewhere(audits, evaluations):
    comparison = Comparison.of(evaluations, None)
    found = audit_section(audits, comparison)
    assert [(model.name, model.role) for model in found.comparison.models] == [
        ("before", Role.BEFORE),
        ("egup_clreg", Role.METHOD),
        ("gradient_difference", Role.METHOD),
        ("retrained", Role.RETRAINED),
    ]
    assert {name: found.looks[name] for name in looks(comparison)} == looks(comparison)
    assert found.not_run == {"probe": "needs rows that no model saw (--holdout)"}
    cells = found.parts["Relearning"][0].cells
    assert [name for name, cell in cells.items() if cell.best] == ["egup_clreg"]  # the nearest to the retrained model


def test_the_page_shows_curves_table_and_what_was_not_run(audits, evaluations):
    html = render(evaluations, audits=audits)
    section = " ".join(Page(html).sections["audit"].split())
    for text in (
        "Relearning",
        "held-back forget rows, others relearned, speed",
        "0.450",
        "Sampling",
        "best rouge",
        "not reached in 4 steps",
    ):
        assert text in section
    assert "Not run: probe: needs rows that no model saw (--holdout)" in section
    alts = [image["alt"] for image in Page(html).images]
    assert (
        "Forget rows held back, while a few others are relearned: before from 0.010 to 0.900; egup_clreg from "
        "0.010 to 0.200; gradient_difference from 0.010 to 0.600; retrained from 0.010 to 0.100"
    ) in alts
    assert sum(alt.startswith(("Forget rows held back", "The relearned rows")) for alt in alts) == 2


def test_notes_of_an_attack_with_a_long_name_stand_under_its_title(audits, evaluations):
    found = Finding({"worst": Metric(0.4)}, notes=("the worst prompt of 3 of 3 rows: plain, thinking",))
    audits = [replace(audit, findings={**audit.findings, "worst_prompt": found}) for audit in audits]
    section = " ".join(Page(render(evaluations, audits=audits)).sections["audit"].split())
    assert "egup_clreg, worst_prompt: the worst prompt of 3 of 3 rows: plain, thinking" in section
    assert describe("worst_prompt_rouge_excess").section == "Worst prompt"
    assert describe("worst_prompt_rouge_excess").label == "rouge excess"


def test_without_audits_the_section_says_how_to_get_one(evaluations):
    assert "run egup audit and pass its file with --audit" in " ".join(
        Page(render(evaluations)).sections["audit"].split()
    )


def test_its_numbers_stand_in_the_files_beside(audits, evaluations, tmp_path):
    written = write_report(tmp_path / "report.html", evaluations, audits=audits)
    metrics = json.loads(written[1].read_text())["metrics"]
    assert metrics["relearning_forget_speed"]["egup_clreg"]["value"] == 0.1
    lines = [row for row in csv.DictReader(written[2].open()) if row["metric"] == "sampling_best_rouge"]
    assert [(row["model"], row["value"], row["num_skipped"]) for row in lines][1] == ("egup_clreg", "0.35", "1")


def test_audits_of_other_rows_and_twins_in_name_are_refused(audits, evaluations):
    comparison = Comparison.of(evaluations, None)
    with pytest.raises(DataError) as error:
        audit_section([audits[0], replace(audits[1], settings={"seed": 7})], comparison)
    assert error.value.got == "the audit of gradient_difference with seed 7"
    with pytest.raises(ConfigError) as error:
        audit_section([audits[0], audits[0]], comparison)
    assert error.value.got == "two models named egup_clreg"
