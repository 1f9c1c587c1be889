"""Remarks: what a run did that nobody wants stands in the report's summary."""

from dataclasses import replace

import pytest
from fixtures_report import make_evaluation

from egup_trainer.report.models import Comparison
from egup_trainer.report.page import render_page
from egup_trainer.report.verdict import remarks


def said_of(training=(), probability=None):
    run = {} if probability is None else {"unlearning": {"probability": probability}}
    evaluation = replace(make_evaluation("egup_clreg", rows=4), name="it", training=list(training), run=run)
    return remarks(Comparison.of([evaluation], None)).get("it", [])


def test_a_run_in_which_nothing_moved():
    assert said_of([{"loss": 1.0}, {"weights_unmoved": 0.934}]) == [
        "Training did not change 93.4% of the trainable weights: almost nothing changed."
    ]


@pytest.mark.parametrize("share", [0.9, 0.0, "nan"])
def test_a_run_that_moved_or_went_wrong_elsewhere(share):
    assert said_of([{"weights_unmoved": share}]) == []


def measured(before, after):
    return {"before": {"forget": 0.9, "retain": before}, "after": {"forget": 0.1, "retain": after}}


@pytest.mark.parametrize("log", [(), ({"retain_nll": 0.02}, {"retain_nll": 0.02})])
def test_retain_rows_that_lost_more_than_a_tenth_of_their_probability(log):
    """Measured: the windows of the log say nothing of what came after the last of them."""
    assert said_of(log, measured(0.982, 0.489)) == ["The mean probability of the retain rows fell from 0.982 to 0.489."]


@pytest.mark.parametrize("after", [0.898, 0.99, "nan", None])
def test_retain_rows_that_did_not(after):
    assert said_of([{"retain_nll": 0.02}, {"retain_nll": 0.11}], measured(0.982, after)) == []


def test_retain_rows_of_a_resumed_run_whose_beginning_is_not_known():
    assert said_of(probability={"at the checkpoint": {"retain": 0.9}, "after": {"retain": 0.1}}) == []


def test_four_bits_that_bring_a_quarter_back():
    found = {"before": {"forget": 0.9}, "after": {"forget": 0.1}, "merged": {"forget": 0.1}}
    assert said_of(probability=found | {"merged, in 4 bits": {"forget": 0.3}}) == [
        "Quantised: forget probability 0.300 in 4 bits, 0.100 before quantisation; 25% of what unlearning removed is "
        "back."
    ]


def test_four_bits_that_bring_nothing_back():
    found = {"before": {"forget": 0.9}, "merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.05}}
    assert said_of(probability=found)[0].endswith("; 0% of what unlearning removed is back.")


def test_four_bits_after_a_resumed_run_whose_beginning_is_not_known():
    found = {"merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.3}}
    assert said_of(probability=found) == ["Quantised: forget probability 0.300 in 4 bits, 0.100 before quantisation."]


def test_four_bits_that_could_not_be_tried():
    found = {"merged": {"forget": 0.1}, "merged, in 4 bits": "not measured: no kernel"}
    assert said_of(probability=found) == [
        "Whether quantisation to 4 bits brings back what was forgotten is not known (not measured: no kernel)."
    ]


def test_what_was_not_merged_is_not_remarked_on():
    assert said_of(probability={"before": {"forget": 0.9}, "after": {"forget": 0.1}}) == []


def test_a_remark_stands_on_the_page_escaped():
    found = measured(0.9, 0.4) | {"merged": {"forget": 0.1}, "merged, in 4 bits": "<script>"}
    evaluation = replace(make_evaluation("egup_clreg"), run={"unlearning": {"probability": found}})
    page = render_page(Comparison.of([evaluation], None), [], show_examples=False, title="x")
    assert "The mean probability of the retain rows fell from 0.900 to 0.400." in page
    assert "is not known (&lt;script&gt;)." in page
