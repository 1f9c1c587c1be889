"""What a reader of a report must not miss, of each method: what its run did that nobody wants."""

from typing import Any

from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.records.outcome import AFTER, BEFORE, IN_4BIT, MERGED, is_damaged, unmoved_share
from egup_trainer.report.models import Comparison
from egup_trainer.report.numbers import format_number


def remarks(comparison: Comparison) -> dict[str, list[str]]:
    """Sentences by the name of each method that calls for any."""
    found = {model.name: _remarks(model.evaluation) for model in comparison.methods}
    return {name: sentences for name, sentences in found.items() if sentences}


def _remarks(evaluation: Evaluation) -> list[str]:
    found = []
    share = unmoved_share(evaluation.training)
    if share is not None:
        found.append(f"Training left {share:.1%} of the trainable weights where they were: almost nothing changed.")
    record = evaluation.run.get("unlearning")
    measured = record.get("probability") if isinstance(record, dict) else None
    return found + (_of_damage(measured) + _of_quantising(measured) if isinstance(measured, dict) else [])


def _of_damage(measured: dict[str, Any]) -> list[str]:
    """Whether retain rows lost much of their probability."""
    before, after = (_probability(measured.get(when), "retain") for when in (BEFORE, AFTER))
    if before is None or after is None or not is_damaged(before, after):
        return []
    return [f"The mean probability of the retain rows fell from {format_number(before)} to {format_number(after)}."]


def _of_quantising(measured: dict[str, Any]) -> list[str]:
    """Whether four bits bring the forgotten back; nothing where that was not tried."""
    merged, quantised, before = (_probability(measured.get(when), "forget") for when in (MERGED, IN_4BIT, BEFORE))
    if merged is None:
        return []
    if quantised is None:
        why = measured.get(IN_4BIT)
        return [f"Whether quantising it to 4 bits brings the forgotten back is not known ({why})."]
    numbers = f"forget probability {format_number(quantised)} in 4 bits, {format_number(merged)} before quantising"
    if before is None or before <= merged:
        return [f"Quantised: {numbers}."]
    back = (quantised - merged) / (before - merged)
    return [f"Quantised: {numbers}; {max(back, 0.0):.0%} of what unlearning took away is back."]


def _probability(values: Any, rows: str) -> float | None:
    """Probability of a set of rows, if there is one: results may hold anything here."""
    found = values.get(rows) if isinstance(values, dict) else None
    return found if isinstance(found, int | float) else None


def cut_rows(evaluation: Evaluation) -> str:
    """How many rows were cut, so that what is said of them does not hold for the whole rows; "" if none were."""
    measured = {name: (facts.cut, facts.num_rows) for name, facts in evaluation.sets.items()}
    record = evaluation.run.get("unlearning")
    sets = record.get("rows") if isinstance(record, dict) else None
    trained = {
        name: (facts.get("cut"), facts.get("rows"))
        for name, facts in (sets.items() if isinstance(sets, dict) else ())
        if isinstance(facts, dict)
    }
    return "".join(
        f" {cut} of {rows} {name} rows were cut at max_length: what was cut off was not {done}."
        for done, counts in (("measured", measured), ("trained on", trained))
        for name, (cut, rows) in counts.items()
        if cut
    )
