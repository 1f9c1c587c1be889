"""The forget rows that a mean hides: those that are still known, and those without a number."""

from dataclasses import dataclass

from egup_trainer.report.comparison import Comparison, Model
from egup_trainer.report.numbers import format_number, listed

# The first that a suite has is taken.
_FORGETTING = ("forget_probability", "forget_verbmem_rouge", "forget_rouge")


@dataclass(frozen=True)
class SingleRows:
    """The forget rows that a mean hides: those that are still known, and those without a number.

    Args:
        metric: what is read of each row.
        yardstick, highest: whose highest value counts, in words, and the value; None without anything to compare with.
        above: values above it by sample id, the highest first.
        skipped, num_rows: ids of the samples without a number, and how many samples there are.
    """

    metric: str
    yardstick: str | None
    highest: float | None
    above: dict[int, float]
    skipped: list[int]
    num_rows: int

    @property
    def sentences(self) -> list[str]:
        """The same in at most two sentences."""
        said = []
        if self.highest is not None:
            named = [f"{sample} ({format_number(value)})" for sample, value in self.above.items()]
            some = f"{_count(len(named), self.num_rows)} above" if named else "No row is above"
            of = f"{self.metric.replace('_', ' ')} of {self.yardstick}"
            said.append(
                f"{some} the highest {of} ({format_number(self.highest)})" + (f": {listed(named)}." if named else ".")
            )
        if self.skipped:
            said.append(f"{_count(len(self.skipped), self.num_rows)} without a number: {listed(self.skipped)}.")
        return said


def _count(count: int, num_rows: int) -> str:
    return f"{count} of {num_rows} rows {'is' if count == 1 else 'are'}"


def single_rows(comparison: Comparison) -> dict[str, SingleRows]:
    """The forget rows of each method that a mean hides, by the method's name.

    A row is above if its value is higher than that of every forget row under the retrained model or, without a
    retrained model, higher than the probability of every holdout row, which no model saw.
    """
    found = {model.name: _single_rows(model, comparison) for model in comparison.methods}
    return {name: rows for name, rows in found.items() if rows is not None}


def _single_rows(model: Model, comparison: Comparison) -> SingleRows | None:
    metric = next((name for name in _FORGETTING if model.value(name) is not None), None)
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
