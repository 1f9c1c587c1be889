"""The results in words: what a run did wrong, how far methods forget, and the rows that a mean hides."""

import json
from dataclasses import replace
from math import nan

import pytest
from fixtures_report import make_evaluation

from egup_trainer.evaluation.evaluation import Evaluation, SetFacts
from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.page import render_page, to_json
from egup_trainer.report.table import table_parts
from egup_trainer.report.verdict import remarks, sentences

FELL = ["The mean probability of the retain rows fell from 0.982 to 0.489."]
IN_4_BITS = "Quantised: forget probability 0.300 in 4 bits, 0.100 before quantisation"


def said_of(training=(), probability=None):
    run = {} if probability is None else {"unlearning": {"probability": probability}}
    evaluation = replace(make_evaluation("egup_clreg", rows=4), name="it", training=list(training), run=run)
    return remarks(Comparison.of([evaluation], None)).get("it", [])


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.934, ["Training did not change 93.4% of the trainable weights: almost nothing changed."]),
        (0.9, []),
        (0.0, []),
        ("nan", []),
    ],
)
def test_a_run_in_which_almost_nothing_moved(share, said):
    assert said_of([{"loss": 1.0}, {"weights_unmoved": share}]) == said


@pytest.mark.parametrize(("after", "said"), [(0.489, FELL), (0.898, []), (0.99, []), ("nan", []), (None, [])])
def test_retain_rows_that_lost_more_than_a_tenth_of_their_probability(after, said):
    """The losses in the log do not matter: they say nothing of what came after the last of them."""
    measured = {"before": {"forget": 0.9, "retain": 0.982}, "after": {"forget": 0.1, "retain": after}}
    assert said_of([{"retain_nll": 0.02}, {"retain_nll": 0.11}], measured) == said


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (
            {"before": {"forget": 0.9}, "merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.3}},
            [f"{IN_4_BITS}; 25% of what unlearning removed is back."],
        ),
        (
            {"before": {"forget": 0.9}, "merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.05}},
            [f"{IN_4_BITS.replace('0.300', '0.050')}; 0% of what unlearning removed is back."],
        ),
        ({"merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.3}}, [f"{IN_4_BITS}."]),  # a resumed run
        (
            {"merged": {"forget": 0.1}, "merged, in 4 bits": "no kernel"},
            ["Whether quantisation to 4 bits brings back what was forgotten is not known (no kernel)."],
        ),
        ({"before": {"forget": 0.9}, "after": {"forget": 0.1}}, []),  # not merged
        ({"at the checkpoint": {"retain": 0.9}, "after": {"retain": 0.1}}, []),
    ],
)
def test_how_much_4_bits_bring_back(measured, said):
    assert said_of(probability=measured) == said


def test_a_remark_is_escaped_on_the_page():
    found = {"merged": {"forget": 0.1}, "merged, in 4 bits": "<script>"}
    evaluation = replace(make_evaluation("egup_clreg"), run={"unlearning": {"probability": found}})
    page = render_page(Comparison.of([evaluation], None), [], show_examples=False, title="x")
    assert "is not known (&lt;script&gt;)." in page


def model(name: str, **metrics: Metric) -> Evaluation:
    return Evaluation(name, "custom", None, {"forget": SetFacts(3, "f" * 16)}, metrics)


def test_a_sentence_compares_forgetting_and_utility_with_the_other_models():
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
    holdout = mean_metric("holdout", {0: 0.1}, num_rows=1, higher_is_better=None, without="")
    ours = of_rows("ours", "forget_probability", [0.05, 0.11], num_rows=2, holdout_probability=holdout)
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


def test_a_sentence_takes_what_the_suite_has():
    muse = model("a", forget_verbmem_rouge=Metric(0.25, False), retain_knowmem_rouge=Metric(0.5, True))
    assert sentences(Comparison.of([muse], None)) == {"a": "forget verbmem rouge 0.250; retain knowmem rouge 0.500."}
    assert sentences(Comparison.of([model("a")], None)) == {"a": "neither forgetting nor utility was evaluated."}
