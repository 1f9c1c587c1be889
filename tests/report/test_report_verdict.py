"""The verdict from evaluations: what is measured, what the retrained model changes, and what stays unknown."""

import math
from dataclasses import replace

import pytest
from fixtures_report import make_evaluation, make_evaluations

from egup_trainer.evaluation.evaluation import Evaluation, SetFacts
from egup_trainer.evaluation.metric import Metric, mean_metric, unavailable
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.verdict import judgments, measures_of
from egup_trainer.verdict import Measures, SetMeasures, Status, verdict

ROWS = 20


def of_rows(name: str, nlls: dict[str, float], *, rouge: dict[str, float] | None = None, repetition=None) -> Evaluation:
    """A model whose rows have l around the given one, by set; with ROUGE and repetition, if given."""

    def metric(set_name, value):
        values = dict(enumerate(value)) if isinstance(value, list) else dict.fromkeys(range(ROWS), value)
        return mean_metric(set_name, values, num_rows=ROWS, without="")

    metrics = {
        f"{set_name}_probability": metric(set_name, [math.exp(-nll - 0.01 * row) for row in range(ROWS)])
        for set_name, nll in nlls.items()
    }
    metrics |= {f"{set_name}_rouge": metric(set_name, value) for set_name, value in (rouge or {}).items()}
    metrics |= {} if repetition is None else {"fluency_repetition": metric("forget", repetition)}
    return Evaluation(name, "custom", None, {set_name: SetFacts(ROWS, "f" * 16) for set_name in nlls}, metrics)


BEFORE = of_rows("before", {"forget": 0.1, "retain": 0.1, "holdout": 3.0}, rouge={"forget": 1.0}, repetition=0.0)
TWIN = of_rows("twin", {"forget": 3.0, "retain": 0.1, "holdout": 3.0}, rouge={"forget": 0.3}, repetition=0.0)


def judged(evaluation, retrained=None, before=BEFORE):
    return judgments(Comparison.of([before, evaluation], retrained))[evaluation.name].verdict


def after(forget=3.0, retain=0.1, holdout=3.0, neighbor=None, **more):
    nlls = {"forget": forget, "retain": retain, "holdout": holdout, "neighbor": neighbor}
    return of_rows("it", {name: nll for name, nll in nlls.items() if nll is not None}, **more)


def test_what_is_measured_of_an_evaluation():
    found = measures_of(replace(BEFORE, metrics={k: v for k, v in BEFORE.metrics.items() if "retain" not in k}))
    assert found.forget.nll == pytest.approx([0.1 + 0.01 * row for row in range(ROWS)])
    assert (found.forget.rouge, found.forget.repetition) == ([1.0] * ROWS, [0.0] * ROWS)
    assert (found.retain, found.unseen.rouge, found.unseen.repetition) == (None, [], [])
    assert found.unseen.nll[0] == pytest.approx(3.0)


def test_a_probability_of_0_is_the_smallest_one():
    gone = mean_metric("forget", {0: 0.0}, num_rows=1, without="")
    (nll,) = measures_of(Evaluation("x", "custom", None, {}, {"forget_probability": gone})).forget.nll
    assert 700 < nll < 710


@pytest.mark.parametrize(
    ("evaluation", "status"),
    [
        (after(), Status.FORGOTTEN),
        (after(forget=0.15), Status.NOT_FORGOTTEN),
        (after(forget=2.0), Status.PARTLY_FORGOTTEN),
        (after(forget=9.0), Status.OVER_FORGOTTEN),
        (after(retain=0.4), Status.MODEL_HARMED),
        (after(holdout=6.0, forget=6.0), Status.MODEL_HARMED),
    ],
)
def test_without_a_retrained_model_rows_never_seen_are_the_yardstick(evaluation, status):
    assert judged(evaluation).status is status


def test_neighbors_are_told_of_and_decide_nothing():
    before = replace(BEFORE, metrics={**BEFORE.metrics, **of_rows("x", {"neighbor": 0.1}).metrics})
    held, hurt = (after(neighbor=nll) for nll in (0.1, 1.0))
    assert judged(held, before=before).remarks[0] == "Neighbor rows hold: 0.82, before 0.82."
    assert judged(hurt, before=before).remarks[0] == "Neighbor rows lost probability: 0.34, before 0.82."
    assert judged(hurt, before=before).status is Status.FORGOTTEN
    assert not any("Neighbor" in said for said in judged(hurt).remarks)  # not measured before


def test_gibberish_in_place_of_forget_answers_is_not_forgetting_even_if_only_forget_questions_were_asked():
    found = judged(after(rouge={"forget": 0.0}, repetition=0.9))
    assert found.status is Status.OVER_FORGOTTEN
    assert found.reasons[0] == (
        "Answers to questions about what is to be forgotten repeat themselves: 90% of their word sequences, "
        "0% elsewhere."
    )


def test_with_a_retrained_model_its_forget_rows_are_a_second_yardstick():
    """Forget rows that other rows taught are likelier than rows never seen, also to who never saw them."""
    taught = of_rows("taught", {"forget": 1.5, "retain": 0.1, "holdout": 3.0})
    assert judged(after(forget=1.5)).status is Status.PARTLY_FORGOTTEN
    found = judged(after(forget=1.5), taught)
    assert found.status is Status.FORGOTTEN
    assert found.reasons[0] == (
        "Forget rows cannot be distinguished from the same rows under the retrained model: probability 0.2, "
        "before 0.82; under the retrained model 0.2 (p = 1)."
    )
    assert found.reasons[1].startswith("Forget rows differ from rows never seen: probability 0.2, before 0.82;")
    assert judged(after(forget=1.0), taught).status is Status.PARTLY_FORGOTTEN  # likelier than by both
    assert judged(after(forget=2.3), taught).status is Status.FORGOTTEN  # between the two
    alike = judged(after(forget=3.0), taught)
    assert alike.status is Status.FORGOTTEN  # as rows never seen, which is said first
    assert [said.partition(":")[0] for said in alike.reasons[:2]] == [
        "Forget rows cannot be distinguished from rows never seen",
        "Forget rows differ from the same rows under the retrained model",
    ]
    assert judged(after(forget=4.5), taught).status is Status.OVER_FORGOTTEN
    assert judged(after(retain=0.4, forget=1.5), taught).status is Status.MODEL_HARMED


def test_with_a_retrained_model_no_rows_never_seen_are_needed_and_recited_answers_show():
    sets = {"forget": 3.0, "retain": 0.1}
    assert judged(of_rows("it", sets)).reasons[0].startswith("No rows that the model never saw were measured")
    assert judged(of_rows("it", sets), TWIN).status is Status.FORGOTTEN
    found = judged(of_rows("it", sets, rouge={"forget": 0.9}), TWIN)
    assert found.status is Status.PARTLY_FORGOTTEN
    assert found.reasons[0] == (
        "The model still writes the forget answers: ROUGE-L 0.90, under the retrained model 0.30."
    )


def test_rows_that_the_retrained_model_finds_as_likely_were_not_known():
    before = of_rows("before", {"forget": 3.0, "retain": 0.1})
    found = judged(after(forget=3.0), TWIN, before)
    assert found.status is Status.UNKNOWN
    assert found.reasons[0].endswith("they were as unlikely as the same rows under the retrained model.")


def test_a_proxy_model_is_a_yardstick_where_there_are_no_rows_never_seen():
    known, unknown = (SetMeasures([nll + 0.01 * row for row in range(20)]) for nll in (0.1, 3.0))
    for now, status, said in (
        (unknown, "FORGOTTEN", "cannot be distinguished from"),
        (known, "NOT FORGOTTEN", "differ from"),
    ):
        found = verdict(Measures(known), Measures(now), Measures(unknown, name="the proxy model"))
        assert found.status.value == status
        assert found.reasons[0].startswith(f"Forget rows {said} the same rows under the proxy model: probability ")


def test_too_few_rows_for_a_test_are_said_to_be_too_few():
    few = SetMeasures([0.1, 0.2, 0.1])
    found = verdict(Measures(few, None, few), Measures(few, None, few))
    said = "Too few rows for a test: 3 to forget, compared with 3 rows never seen. Give more rows never seen."
    assert (found.status, found.reasons) == (Status.UNKNOWN, [said])
    found = verdict(Measures(few, None, few), Measures(few, None, few), Measures(few))
    said = "Too few rows for a test: 3 to forget, compared with 3 under the retrained model. Give more rows to forget."
    assert (found.status, found.reasons) == (Status.UNKNOWN, [said])


def test_without_the_numbers_that_it_needs_the_verdict_is_unknown():
    def reason(found):
        assert found.status is Status.UNKNOWN
        return found.reasons[0]

    alone = judgments(Comparison.of([after()], None))["it"].verdict
    assert reason(alone) == "The model before unlearning was not evaluated. Name its results first."
    lacking = {
        "forget_probability": unavailable("no row has a finite number", False),
        "forget_rouge": Metric(0.0, False),
    }
    assert reason(judged(Evaluation("it", "custom", None, {}, lacking))) == (
        "No probabilities of forget answers were measured of it (no row has a finite number)."
    )
    muse = Evaluation("it", "muse", None, {}, {"forget_verbmem_rouge": Metric(0.2, False)})
    assert reason(judged(muse)) == "No probabilities of forget answers were measured of it."


@pytest.mark.parametrize("set_name", ["forget", "retain", "holdout"])
def test_rows_that_lost_their_number_are_never_taken_for_forgotten_or_unharmed(set_name):
    whole = after()
    values = whole.values_of(f"{set_name}_probability", set_name) | {1: math.nan, 3: math.inf}
    some = mean_metric(set_name, values, num_rows=ROWS, without="")
    found = judged(replace(whole, metrics=whole.metrics | {f"{set_name}_probability": some}))
    assert found.status is Status.UNKNOWN
    assert found.reasons == [f"2 of 20 {set_name} rows have no finite number any more: rows 1, 3."]


def test_a_reader_is_told_what_was_not_measured():
    assert judged(after()).remarks == ["What the model writes was not measured, or no answer has words."]
    without = replace(TWIN, metrics={})
    assert judged(after(rouge={"forget": 0.2}), without).remarks[-1] == (
        "The retrained model has no probabilities of forget answers: rows never seen are the yardstick."
    )


def test_each_method_of_a_comparison_is_judged():
    evaluations, retrained = make_evaluations()
    found = judgments(Comparison.of(evaluations, retrained))
    assert {name: each.verdict.status for name, each in found.items()} == {
        "gradient_difference": Status.MODEL_HARMED,
        "egup_clreg": Status.FORGOTTEN,
    }
    assert found["egup_clreg"].retrained == measures_of(make_evaluation("retrained"))


AFTER_EXAMPLE = "After another question and its answer, the model still knows the forget rows: probability 0.6."


@pytest.mark.parametrize(
    ("status", "reason"), [("PARTLY FORGOTTEN", AFTER_EXAMPLE), ("MODEL HARMED", "Retain rows lost probability.")]
)
def test_what_only_the_run_can_find_wrong_is_not_put_right_by_an_evaluation(status, reason):
    run = {"unlearning": {"verdict": {"status": status, "reasons": [reason], "remarks": []}}}
    found = judged(replace(after(), run=run))
    assert found.status.value == status
    assert found.reasons == [f"At the end of its run: {reason}", *judged(after()).reasons]
    assert judged(replace(after(), run=run | {"other_rows": "The rows are others."})) == judged(after())


@pytest.mark.parametrize("status", ["PARTLY FORGOTTEN", "OVER-FORGOTTEN", "NOT FORGOTTEN", "FORGOTTEN", "UNKNOWN"])
def test_what_an_evaluation_measures_itself_is_judged_by_the_evaluation(status):
    """Such as rows that differ from proxies, but not from those of the retrained model, which the run did not have."""
    recorded = {"status": status, "reasons": ["Forget rows: probability 0.2."], "remarks": []}
    assert judged(replace(after(), run={"unlearning": {"verdict": recorded}})) == judged(after())
