"""What a reader must not miss about the run that made a model: what it did not do, and what is known besides."""

from collections.abc import Iterable
from typing import Any

from egup_trainer.evaluation.definitions import why_not_comparable
from egup_trainer.evaluation.evaluation import FRAMEWORK, Evaluation
from egup_trainer.evaluation.rows import EXCHANGED
from egup_trainer.records.judgments import BEFORE, IN_4BIT, MERGED, unmoved_share
from egup_trainer.report.comparison import Comparison, Model
from egup_trainer.report.numbers import format_number


def remarks(comparison: Comparison) -> dict[str, list[str]]:
    """What a reader must not miss about the runs, in sentences, by the name of each method that needs any."""
    found = {model.name: [*on_rows(model.evaluation), *quantized(model.evaluation)] for model in comparison.methods}
    others = [model for model in comparison.models if model.name not in found]
    found |= {model.name: named_by_number(model.evaluation) for model in others}
    return {name: said for name, said in found.items() if said}


def of_other_frameworks(models: Iterable[Model]) -> list[str]:
    """What `named_by_number` says of the models, in sentences, each after the model's name."""
    return [f"{model.name}: {said}" for model in models for said in named_by_number(model.evaluation)]


def named_by_number(evaluation: Evaluation) -> list[str]:
    """What was not checked, and what is left out, of results of another framework, in sentences."""
    if not evaluation.names_no_rows:
        return []
    counts = ", ".join(f"{facts.num_rows} {name}" for name, facts in evaluation.sets.items())
    theirs, reasons = evaluation.run.get(FRAMEWORK), list[str]()
    for name, metric in evaluation.metrics.items():
        why = why_not_comparable(name, evaluation.suite)
        if why is not None and metric.reason == why:
            reasons.append(f"{name} ({why})")
    left_out = [f"Left out, since {theirs} computes another quantity: {'; '.join(reasons)}."] if reasons else []
    checked = f"These results are those of {theirs}, which names no rows: only their numbers were checked ({counts})."
    return [f"{checked} Whether rows, prompts and tokens are the same is not known.", *left_out]


def on_rows(evaluation: Evaluation) -> list[str]:
    """Whether almost nothing changed, whether rows were cut and are known, and whose the wrong answers are."""
    said, share = [], unmoved_share(evaluation.training)
    if share is not None:
        said.append(f"Training did not change {share:.1%} of the trainable weights: almost nothing changed.")
    said += _cut_rows(evaluation)
    if EXCHANGED in evaluation.settings.values():
        said.append("The rows have no wrong answers, so answers of other rows to similar questions are used.")
    return said + named_by_number(evaluation)


def _cut_rows(evaluation: Evaluation) -> list[str]:
    """How many rows were cut, since the numbers do not hold for the whole rows then."""
    measured = {name: (facts.cut, facts.num_rows) for name, facts in evaluation.sets.items()}
    recorded = _dict(_dict(evaluation.run, "unlearning"), "rows")
    trained = {name: (_part(facts, "cut"), _part(facts, "rows")) for name, facts in recorded.items()}
    return [
        f"{cut} of {rows} {name} rows were cut at max_length: what was cut off was not {done}."
        for done, counts in (("measured", measured), ("trained on", trained))
        for name, (cut, rows) in counts.items()
        if cut
    ]


def quantized(evaluation: Evaluation) -> list[str]:
    """Whether quantization to 4 bits brings back what was forgotten, as the run tried it; empty if it did not."""
    measured = _dict(_dict(evaluation.run, "unlearning"), "probability")
    found = (_part(measured.get(when), "forget") for when in (MERGED, IN_4BIT, BEFORE))
    merged, quantized, before = (value if isinstance(value, int | float) else None for value in found)
    if merged is None:
        return []
    if quantized is None:
        why = measured.get(IN_4BIT)
        return [f"Whether quantization to 4 bits brings back what was forgotten is not known ({why})."]
    numbers = f"forget probability {format_number(quantized)} in 4 bits, {format_number(merged)} before quantization"
    if before is None or before <= merged:
        return [f"Quantized: {numbers}."]
    back = (quantized - merged) / (before - merged)
    return [f"Quantized: {numbers}; {max(back, 0.0):.0%} of what unlearning removed is back."]


def _dict(values: Any, name: str) -> dict[str, Any]:
    """A part of the record of a run, which may contain anything in results."""
    found = _part(values, name)
    return found if isinstance(found, dict) else {}


def _part(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, dict) else None
