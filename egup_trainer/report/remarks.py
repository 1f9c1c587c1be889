"""What a reader of a report must not miss, of each method: what its run did that nobody wants."""

from typing import Any

from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.outcome import BEFORE, IN_4BIT, MERGED, retain_damage, unmoved_share
from egup_trainer.report.models import Comparison
from egup_trainer.report.numbers import format_number


def remarks(comparison: Comparison) -> dict[str, list[str]]:
    """Sentences by the name of each method that calls for any."""
    found = {model.name: _remarks(model.evaluation) for model in comparison.methods}
    return {name: sentences for name, sentences in found.items() if sentences}


def _remarks(evaluation: Evaluation) -> list[str]:
    found = []
    share, damage = unmoved_share(evaluation.training), retain_damage(evaluation.training)
    if share is not None:
        found.append(f"Training left {share:.1%} of the trainable weights where they were: almost nothing changed.")
    if damage is not None:
        first, last = map(format_number, damage)
        found.append(f"The retain loss more than doubled in training, from {first} to {last} nats a token.")
    record = evaluation.run.get("unlearning")
    measured = record.get("probability") if isinstance(record, dict) else None
    return found + (_of_quantising(measured) if isinstance(measured, dict) else [])


def _of_quantising(measured: dict[str, Any]) -> list[str]:
    """Whether four bits bring the forgotten back; nothing where that was not tried."""
    merged, quantised, before = (_forget(measured.get(when)) for when in (MERGED, IN_4BIT, BEFORE))
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


def _forget(values: Any) -> float | None:
    """Probability of the forget rows, if there is one: results may hold anything here."""
    found = values.get("forget") if isinstance(values, dict) else None
    return found if isinstance(found, int | float) else None
