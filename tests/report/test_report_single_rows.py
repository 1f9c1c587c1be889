"""The rows that a mean hides: those that are still known, and those without a number."""

import json
from math import nan

from egup_trainer.evaluation.evaluation import Evaluation, SetFacts
from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.page import to_json
from egup_trainer.report.single_rows import single_rows


def of_rows(name, values, num_rows=8, **others):
    kept = dict(enumerate(values)) if isinstance(values, list) else values
    found = mean_metric("forget", kept, num_rows=num_rows, higher_is_better=False, without="no row has it")
    metrics = {"forget_probability": found, **others}
    return Evaluation(name, "custom", None, {"forget": SetFacts(3, "f" * 16)}, metrics)


TWIN = of_rows("twin", [0.03, 0.05, 0.04, 0.03, 0.2, 0.03, 0.04, 0.05])
BEFORE = of_rows("before", [0.9] * 8)


def sentences(evaluations, retrained=None):
    return {name: rows.sentences for name, rows in single_rows(Comparison.of(evaluations, retrained)).items()}


def test_rows_above_the_retrained_models_own_range_are_named():
    """Two rows of eight at .5 were "as far as the retrained model": the mean hid them."""
    hidden = of_rows("hidden", [0.01, 0.5, 0.01, 0.01, 0.01, 0.51, 0.01, 0.01])
    even = of_rows("even", [0.06] * 7 + [0.2])  # .2 is the highest, not above it
    highest = "above the highest forget probability of the retrained model (0.200)"
    assert sentences([BEFORE, hidden, even], TWIN) == {
        "hidden": [f"2 of 8 rows are {highest}: rows 5 (0.510), 1 (0.500)."],
        "even": [f"No row is {highest}."],
    }
    comparison = Comparison.of([BEFORE, hidden, even], TWIN)
    rows = json.loads(to_json(comparison, [], "Title"))["forget_rows"]["hidden"]
    assert (rows["above"], rows["highest"], rows["num_rows"]) == ({"5": 0.51, "1": 0.5}, 0.2, 8)


def test_without_a_retrained_model_the_rows_never_seen_give_the_range():
    holdout = mean_metric("holdout", {0: 0.1}, num_rows=1, higher_is_better=None, without="")
    ours = of_rows("ours", [0.05, 0.11], num_rows=2, holdout_probability=holdout)
    assert sentences([ours])["ours"] == [
        "1 of 2 rows is above the highest forget probability of the rows never seen (0.100): row 1 (0.110)."
    ]
    assert sentences([of_rows("ours", [0.05, 0.11], num_rows=2)]) == {"ours": []}


def test_rows_without_a_number_are_named():
    some = of_rows("some", {0: 0.04, 2: 0.04, 3: nan}, num_rows=4)
    assert sentences([some], TWIN)["some"][1:] == ["2 of 4 rows are without a number: rows 1, 3."]


def test_many_rows_are_counted_and_twenty_named():
    ours = of_rows("ours", [0.5 + row / 1000 for row in range(30)], num_rows=30)
    (sentence,) = sentences([ours], TWIN)["ours"]
    assert sentence.startswith("30 of 30 rows are above")
    assert sentence.endswith("11 (0.511), 10 (0.510) and 10 more.")


def test_the_metric_that_the_suite_has_is_taken():
    muse = Evaluation("a", "muse", None, {}, {"forget_verbmem_rouge": Metric(0.25, False)})
    assert single_rows(Comparison.of([muse], None))["a"].metric == "forget_verbmem_rouge"
    assert single_rows(Comparison.of([Evaluation("a", "muse", None, {}, {})], None)) == {}
