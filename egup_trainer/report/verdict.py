"""The results in words: how far each method forgets, which rows its mean hides, and what its run did wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.records.judgments import AFTER, BEFORE, IN_4BIT, MERGED, is_damaged, unmoved_share
from egup_trainer.report.comparison import Comparison, Model
from egup_trainer.report.numbers import format_number

NO_GUARANTEE = "Approximate unlearning: no formal guarantee."
# The first metric of each group that a suite has is taken.
_FORGETTING = ("forget_probability", "forget_verbmem_rouge", "forget_rouge")
_UTILITY = ("model_utility", "retain_probability", "retain_knowmem_rouge", "retain_rouge")
_MOST_NAMED = 20  # rows in a sentence; the JSON file names all


@dataclass(frozen=True)
class SingleRows:
    """The forget rows that a mean hides: those that are still known, and those without a number.

    Args:
        metric: what is read of each row.
        yardstick: whose highest value counts, in words; None if there is nothing to compare with.
        highest: that value; None without a yardstick.
        above: values above it by sample id, the highest first.
        skipped: sample ids of the rows without a number.
        num_rows: number of rows of the set.
    """

    metric: str
    yardstick: str | None
    highest: float | None
    above: dict[int, float]
    skipped: list[int]
    num_rows: int

    @property
    def words(self) -> str:
        """The same in a sentence or two; empty if there is nothing to say."""
        said = ""
        if self.highest is not None:
            named = [f"{sample} ({format_number(value)})" for sample, value in self.above.items()]
            some = f"{_count(len(named), self.num_rows)} above" if named else "No row is above"
            said = f" {some} the highest value of {self.yardstick} ({format_number(self.highest)})"
            said += f": {_listed(named)}." if named else "."
        if self.skipped:
            said += f" {_count(len(self.skipped), self.num_rows)} without a number: {_listed(self.skipped)}."
        return said


def _count(count: int, num_rows: int) -> str:
    return f"{count} of {num_rows} rows {'is' if count == 1 else 'are'}"


def _listed(rows: Sequence[object]) -> str:
    more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
    return f"row{'' if len(rows) == 1 else 's'} {', '.join(map(str, rows[:_MOST_NAMED]))}{more}"


def single_rows(comparison: Comparison) -> dict[str, SingleRows]:
    """The forget rows of each method that a mean hides, by the method's name.

    A row is above if its value is higher than that of every forget row under the retrained model or, without a
    retrained model, higher than the probability of every holdout row, which no model saw.
    """
    found = {model.name: _single_rows(model, comparison) for model in comparison.methods}
    return {name: rows for name, rows in found.items() if rows is not None}


def _single_rows(model: Model, comparison: Comparison) -> SingleRows | None:
    metric = _first(_FORGETTING, model)
    if metric is None:
        return None
    found = model.evaluation.metrics[metric]
    set_name, values = next(iter(found.values.items()), ("", {}))
    yardstick, others = None, {}
    if comparison.retrained is not None:
        yardstick, others = "the retrained model", comparison.retrained.values(metric, set_name)
    elif metric == "forget_probability":
        yardstick, others = "the rows never seen", model.values("holdout_probability", "holdout")
    highest = max(others.values(), default=None)
    above = {} if highest is None else {sample: value for sample, value in values.items() if value > highest}
    num_rows = found.num_samples + found.num_skipped
    return SingleRows(
        metric,
        None if highest is None else yardstick,
        highest,
        dict(sorted(above.items(), key=lambda row: -row[1])),
        [sample for sample in range(num_rows) if sample not in values] if found.num_skipped else [],
        num_rows,
    )


def sentences(comparison: Comparison) -> dict[str, str]:
    """The numbers of each method in words, beside the retrained model and the initial model; by the method's name."""
    return {model.name: _sentence(model, comparison) + _cut_rows(model.evaluation) for model in comparison.methods}


def _sentence(model: Model, comparison: Comparison) -> str:
    # A metric whose rows are there but have no number must not be replaced by the next one without a word.
    metrics = model.evaluation.metrics
    lacking = [name for name in _FORGETTING if name in metrics and model.value(name) is None]
    said = [f"no {_label(name)} ({metrics[name].reason})" for name in lacking if metrics[name].num_skipped]
    forgetting = _first(_FORGETTING, model)
    said += [_number(name, model, comparison) for name in (forgetting, _first(_UTILITY, model)) if name is not None]
    numbers = "; ".join(said) or "neither forgetting nor utility was evaluated"
    rows = _single_rows(model, comparison)
    if forgetting is None or rows is None:
        return f"{numbers}."
    return f"{numbers}.{_verdict(forgetting, model, comparison.retrained, bool(rows.above))}{rows.words}"


def _first(names: Sequence[str], model: Model) -> str | None:
    return next((name for name in names if model.value(name) is not None), None)


def _label(metric: str) -> str:
    return metric.replace("_", " ")


def _number(metric: str, model: Model, comparison: Comparison) -> str:
    others = {"retrained": comparison.retrained, "before": comparison.before}
    values = {role: other.value(metric) for role, other in others.items() if other is not None}
    beside = [f"{role} {format_number(value)}" for role, value in values.items() if value is not None]
    return f"{_label(metric)} {format_number(model.value(metric))}" + (f" ({', '.join(beside)})" if beside else "")


def _verdict(metric: str, model: Model, retrained: Model | None, has_rows_above: bool) -> str:
    """Where a value that falls with forgetting lies relative to the 95% interval of the retrained model, if any."""
    found = None if retrained is None else retrained.evaluation.metrics.get(metric)
    value = model.value(metric)
    if found is None or found.interval is None or value is None:
        return ""
    low, high = found.interval
    if value < low:
        how, where = "further than", "below"
    elif value > high:
        how, where = "less than", "above"
    else:
        how, where = "as far as", "within"
    return (
        f" {'On average it' if has_rows_above else 'It'} forgets {how} the retrained model: {where} its 95% interval."
    )


def _cut_rows(evaluation: Evaluation) -> str:
    """How many rows were cut, since the numbers do not hold for the whole rows then; empty if none were cut."""
    measured = {name: (facts.cut, facts.num_rows) for name, facts in evaluation.sets.items()}
    trained = {
        name: (_part(facts, "cut"), _part(facts, "rows")) for name, facts in _dict(_record(evaluation), "rows").items()
    }
    return "".join(
        f" {cut} of {rows} {name} rows were cut at max_length: what was cut off was not {done}."
        for done, counts in (("measured", measured), ("trained on", trained))
        for name, (cut, rows) in counts.items()
        if cut
    )


def remarks(comparison: Comparison) -> dict[str, list[str]]:
    """What a reader must not miss about the runs, in sentences, by the name of each method that needs any."""
    found = {model.name: _remarks(model.evaluation) for model in comparison.methods}
    return {name: said for name, said in found.items() if said}


def _remarks(evaluation: Evaluation) -> list[str]:
    said = []
    share = unmoved_share(evaluation.training)
    if share is not None:
        said.append(f"Training did not change {share:.1%} of the trainable weights: almost nothing changed.")
    measured = _dict(_record(evaluation), "probability")
    before, after = (_probability(measured, when, "retain") for when in (BEFORE, AFTER))
    if before is not None and after is not None and is_damaged(before, after):
        said.append(
            f"The mean probability of the retain rows fell from {format_number(before)} to {format_number(after)}."
        )
    return said + _of_quantization(measured)


def _of_quantization(measured: Mapping[str, Any]) -> list[str]:
    """Whether quantisation to 4 bits brings back what was forgotten; nothing if that was not tried."""
    merged, quantized, before = (_probability(measured, when, "forget") for when in (MERGED, IN_4BIT, BEFORE))
    if merged is None:
        return []
    if quantized is None:
        why = measured.get(IN_4BIT)
        return [f"Whether quantisation to 4 bits brings back what was forgotten is not known ({why})."]
    numbers = f"forget probability {format_number(quantized)} in 4 bits, {format_number(merged)} before quantisation"
    if before is None or before <= merged:
        return [f"Quantised: {numbers}."]
    back = (quantized - merged) / (before - merged)
    return [f"Quantised: {numbers}; {max(back, 0.0):.0%} of what unlearning removed is back."]


def _record(evaluation: Evaluation) -> dict[str, Any]:
    """The record of the run that the model came from; results may contain anything here."""
    return _dict(evaluation.run, "unlearning")


def _dict(values: Any, name: str) -> dict[str, Any]:
    found = _part(values, name)
    return found if isinstance(found, dict) else {}


def _part(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, dict) else None


def _probability(measured: Mapping[str, Any], when: str, rows: str) -> float | None:
    found = _part(measured.get(when), rows)
    return found if isinstance(found, int | float) else None
