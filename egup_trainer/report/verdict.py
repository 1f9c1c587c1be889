"""The verdict on each method of a comparison, from the evaluations of the models."""

import sys
from dataclasses import dataclass, replace
from math import log

from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.report.comparison import Comparison, Model
from egup_trainer.report.numbers import listed
from egup_trainer.verdict import AFTER_EXAMPLE, Measures, SetMeasures, Status, Verdict, verdict

NO_GUARANTEE = "Approximate unlearning: no formal guarantee."
FORGET, RETAIN, UNSEEN, NEIGHBOR = "forget", "retain", "holdout", "neighbor"
"""Names of the row sets that are judged, in results."""


@dataclass(frozen=True)
class Judgment:
    """The verdict on a method, and the measures that it rests on; None for what cannot be compared."""

    verdict: Verdict
    before: Measures | None = None
    after: Measures | None = None
    retrained: Measures | None = None


def judgments(comparison: Comparison) -> dict[str, Judgment]:
    """Judges each method by the model before and, if there is one, by the retrained model; by the method's name.

    The status is unknown, with the reason, where a model was not evaluated, or rows have no number.
    """
    return {model.name: _judgment(model, comparison.before, comparison.retrained) for model in comparison.methods}


def verdict_lines(comparison: Comparison) -> list[str]:
    """The verdict on each method as text, a sentence a line."""
    return [
        line
        for name, judgment in judgments(comparison).items()
        for line in (f"{name}: {judgment.verdict.status.value}", *judgment.verdict.lines[1:])
    ]


def _judgment(model: Model, before: Model | None, retrained: Model | None) -> Judgment:
    if before is None:
        return _unknown("The model before unlearning was not evaluated. Name its results first.")
    start, after = (measures_of(each.evaluation) for each in (before, model))
    for each, measured in ((before, start), (model, after)):
        if measured is None:
            metric = each.evaluation.metrics.get(f"{FORGET}_probability")
            why = f" ({metric.reason})" if metric is not None and metric.reason else ""
            return _unknown(f"No probabilities of forget answers were measured of {each.name}{why}.")
    lost = _rows_without_a_number(before, model)
    if lost or start is None or after is None:
        return _unknown(lost)
    aim = None if retrained is None else measures_of(retrained.evaluation)
    found = verdict(start, after, aim)
    more = [] if after.forget.rouge else ["What the model writes was not measured, or no answer has words."]
    if retrained is not None and aim is None:
        more.append("The retrained model has no probabilities of forget answers: rows never seen are the yardstick.")
    found = _with_recorded(found, model)
    return Judgment(replace(found, remarks=[*found.remarks, *more]), start, after, aim)


def _with_recorded(found: Verdict, model: Model) -> Verdict:
    """The verdict that the run recorded at its end, in place of "forgotten", where an evaluation cannot see why.

    The run measures rows that are read after an example, and how retain questions are answered, also where an
    evaluation has no retain rows. Its other verdicts are about rows that are measured here, too.
    """
    recorded = model.run.get("unlearning", {}).get("verdict")
    if found.status is not Status.FORGOTTEN or not recorded or "other_rows" in model.run:
        return found
    is_harmed = recorded["status"] == Status.MODEL_HARMED.value
    if not is_harmed and not any(reason.startswith(AFTER_EXAMPLE) for reason in recorded["reasons"]):
        return found
    said = [f"At the end of its run: {recorded['reasons'][0]}", *found.reasons]
    return Verdict(Status(recorded["status"]), said, found.remarks)


def measures_of(evaluation: Evaluation) -> Measures | None:
    """What was measured of forget, retain, holdout and neighbor rows; None without probabilities of forget answers.

    The holdout rows are those that no model saw. l of a row is -log of the probability of its answer; a probability
    that is too small for a float counts as the smallest one. A set without probabilities is None. Repetition is that of
    the generations whose fluency was measured: those of forget rows.
    """
    forget, retain, unseen, neighbor = (_set_measures(evaluation, name) for name in (FORGET, RETAIN, UNSEEN, NEIGHBOR))
    return None if forget is None else Measures(forget, retain, unseen, neighbor)


def _set_measures(evaluation: Evaluation, name: str) -> SetMeasures | None:
    likely = evaluation.values_of(f"{name}_probability", name).values()
    if not likely:
        return None
    rouge = evaluation.values_of(f"{name}_rouge", name).values()
    repetition = evaluation.values_of("fluency_repetition", name).values()
    return SetMeasures([-log(max(value, sys.float_info.min)) for value in likely], list(rouge), list(repetition))


def _unknown(reason: str) -> Judgment:
    return Judgment(Verdict(Status.UNKNOWN, [reason]))


def _rows_without_a_number(before: Model, model: Model) -> str:
    """Which rows have lost their number since; empty if none. They must never be taken for forgotten or unharmed."""
    for name in (FORGET, RETAIN, UNSEEN, NEIGHBOR):
        metric = f"{name}_probability"
        first, last = (each.values(metric, name) for each in (before, model))
        lost = sorted(first.keys() - last.keys())
        if lost and metric in model.evaluation.metrics:
            return f"{len(lost)} of {len(first)} {name} rows have no finite number any more: {listed(lost)}."
    return ""
