"""The rules of the verdict that measurements of whole runs do not reach: few rows, outliers, and broken numbers."""

import math
from dataclasses import replace

import pytest

from egup_trainer.verdict import Measures, SetMeasures, Status, _is_lower, verdict


def rows(nll, count=20, **more):
    return SetMeasures([nll + 0.01 * row for row in range(count)], **more)


KNOWN = Measures(rows(0.1), rows(0.1), rows(3.0))


def test_a_few_answers_that_are_recited_count_though_the_mean_does_not_show_them():
    """36 of 400 is a mean of .09, below the tenth by which means must differ; by chance it is one of 10^10 cases."""
    known = Measures(rows(0.1, 400), rows(0.1), rows(3.0, 400))
    unseen = rows(3.0, 400, rouge=[0.1] * 400)

    def judged(recited):
        forget = rows(3.0, 400, rouge=[1.0] * recited + [0.1] * (400 - recited))
        return verdict(known, Measures(forget, rows(0.1), unseen))

    assert (judged(36).status, judged(0).status) == (Status.PARTLY_FORGOTTEN, Status.FORGOTTEN)
    assert judged(36).reasons[0] == (
        "The model still recites forget answers nearly word for word: 36 of 400, rows never seen 0 of 400."
    )
    assert judged(5).status is Status.FORGOTTEN  # one-sided p = .031, above .025
    assert judged(6).status is Status.PARTLY_FORGOTTEN  # p = .015


def test_few_rows_that_have_come_a_small_part_of_the_way_are_not_forgotten():
    unseen = SetMeasures([0.9, 4.0, 4.1, 3.9, 4.0])  # its first row keeps the test from telling the sets apart
    before = Measures(rows(0.1, 5), None, unseen)
    found = verdict(before, Measures(rows(1.0, 5), None, unseen))
    assert found.status is Status.PARTLY_FORGOTTEN
    assert found.reasons[0] == "Forget rows have come only 28% of the way to rows never seen."
    assert verdict(before, Measures(rows(3.5, 5), None, unseen)).status is Status.FORGOTTEN


def test_rows_that_are_like_rows_never_seen_need_not_be_like_those_of_a_retrained_model_as_well():
    """The way is that to the nearer of the two: a retrained model may find these rows hard in themselves."""
    unseen, retrained = SetMeasures([2.0] * 20), Measures(rows(6.0, 20))
    found = verdict(Measures(rows(0.1, 20), None, unseen), Measures(rows(2.0, 20), None, unseen), retrained)
    assert found.status is Status.FORGOTTEN


def test_one_row_beside_many_has_no_spread_to_compare():
    """As in a report on one forget row and 45 holdout rows."""
    assert not _is_lower([0.1], [0.9] * 45)


def test_rows_that_were_less_likely_than_rows_never_seen_were_not_known():
    untouched = Measures(rows(3.0), rows(0.1), rows(2.0))
    found = verdict(untouched, untouched)
    assert found.status is Status.UNKNOWN
    assert found.reasons[0].endswith("they were as unlikely as rows never seen.")


def test_rows_given_as_never_seen_that_the_model_knows_are_no_yardstick():
    known = Measures(rows(0.05), rows(0.1), rows(0.05))
    found = verdict(known, known)
    assert found.status is Status.UNKNOWN
    assert found.reasons == [
        "The rows that the model has supposedly never seen had probability 0.87 before, and the forget rows 0.87. "
        "Give rows that it has not seen."
    ]


@pytest.mark.parametrize("name", ["forget", "retain", "unseen"])
def test_numbers_that_are_not_finite_are_neither_forgotten_nor_unharmed(name):
    sets = {"forget": rows(3.0), "retain": rows(0.1), "unseen": rows(3.0)}
    sets[name] = SetMeasures([math.nan, *sets[name].nll[1:]])
    found = verdict(KNOWN, Measures(**sets))
    assert found.status is Status.UNKNOWN
    assert found.reasons == [f"1 of 20 {name} rows have no finite number after unlearning."]


def test_two_retain_questions_show_no_harm_and_four_do():
    def judged(count):
        before = Measures(rows(0.1), rows(0.1, rouge=[1.0] * count), rows(3.0))
        return verdict(before, Measures(rows(3.0), rows(0.1, rouge=[0.8] * count), rows(3.0)))

    assert (judged(2).status, judged(4).status) == (Status.FORGOTTEN, Status.MODEL_HARMED)


def test_a_retrained_model_that_wrote_nothing_leaves_rows_never_seen_to_compare_answers_with():
    """As with results of --skip_generation: the model recites all, whatever it is compared with."""
    unseen = rows(3.0, rouge=[0.2] * 20)
    after = Measures(rows(3.0, rouge=[1.0] * 20), rows(0.1), unseen)
    found = verdict(KNOWN, after, Measures(rows(3.0)))
    assert found.status is Status.PARTLY_FORGOTTEN
    assert found.reasons[0] == "The model still writes the forget answers: ROUGE-L 1.00, rows never seen 0.20."
    alone = verdict(KNOWN, replace(after, unseen=None), Measures(rows(3.0)))
    assert alone.remarks[-1] == "Whether too many are recited is not known: nothing was written for rows never seen."


def test_rows_under_a_proxy_model_are_compared_after_an_example_too():
    never_saw = Measures(rows(3.0, nll_after_example=[2.5] * 20), name="the proxy model")

    def judged(nll):
        return verdict(KNOWN, Measures(rows(3.0, nll_after_example=[nll] * 20)), never_saw)

    assert judged(2.5).status is Status.FORGOTTEN
    assert judged(0.5).status is Status.PARTLY_FORGOTTEN
    assert judged(0.5).reasons[0] == (
        "After another question and its answer, the model still knows the forget rows: probability 0.61, under the "
        "proxy model 0.082."
    )


def test_numbers_after_an_example_and_those_of_a_retrained_model_must_be_finite():
    broken = rows(3.0, nll_after_example=[math.nan] * 20)
    unseen = rows(3.0, nll_after_example=[3.0] * 20)
    found = verdict(KNOWN, Measures(broken, rows(0.1), unseen))
    assert found.status is Status.UNKNOWN
    assert found.reasons == ["20 of 20 forget rows, read after an example, have no finite number after unlearning."]
    retrained = Measures(SetMeasures([math.inf] * 20))
    found = verdict(KNOWN, Measures(rows(3.0), rows(0.1), rows(3.0)), retrained)
    assert found.reasons == ["20 of 20 forget rows have no finite number under the retrained model."]
