"""The comparison in short: a sentence a method, and a table for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from egup_trainer.report.models import Comparison, Model
from egup_trainer.report.numbers import format_number
from egup_trainer.report.remarks import cut_rows
from egup_trainer.report.table import Part

NO_GUARANTEE = "Approximate unlearning: no formal guarantee."
# Of each group the first that a suite has.
_FORGETTING = ("forget_probability", "forget_verbmem_rouge", "forget_rouge")
_UTILITY = ("model_utility", "retain_probability", "retain_knowmem_rouge", "retain_rouge")
_MAIN: tuple[str, ...] = ("forget_probability", "retain_probability", "forget_verbmem_rouge", "retain_knowmem_rouge")
_MAIN += ("model_utility", "forget_quality", "privleak")
_MOST_NAMED = 20  # rows in a sentence; the JSON file names all


@dataclass(frozen=True)
class SingleRows:
    """The forget rows that a mean hides: those still known, and those without a number.

    Args:
        metric: what is read of each row.
        yardstick: whose highest value counts, in words; None where there is nothing to compare with.
        highest: that value; None without a yardstick.
        above: values above it by sample id, the highest first.
        skipped: sample ids of the rows without a number.
        num_rows: rows of the set.
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
            some = f"{_of(len(named), self.num_rows)} above" if named else "No row is above"
            said = f" {some} the highest value of {self.yardstick} ({format_number(self.highest)})"
            said += f": {_listed(named)}." if named else "."
        if self.skipped:
            said += f" {_of(len(self.skipped), self.num_rows)} without a number: {_listed(self.skipped)}."
        return said


def single_rows(comparison: Comparison) -> dict[str, SingleRows]:
    """The forget rows of each method that a mean hides, by the method's name.

    A row is above where its value is higher than that of every forget row under the retrained model, or, without a
    retrained model, higher than the probability of every holdout row, which no model saw.
    """
    found = {model.name: (model, _forgetting(model)) for model in comparison.methods}
    return {name: _single_rows(model, metric, comparison) for name, (model, metric) in found.items() if metric}


def _single_rows(model: Model, metric: str, comparison: Comparison) -> SingleRows:
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


def _of(count: int, num_rows: int) -> str:
    return f"{count} of {num_rows} rows {'is' if count == 1 else 'are'}"


def _listed(rows: Sequence[object]) -> str:
    more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
    return f"row{'' if len(rows) == 1 else 's'} {', '.join(map(str, rows[:_MOST_NAMED]))}{more}"


def sentences(comparison: Comparison) -> dict[str, str]:
    """What the numbers say of each method, beside the retrained model and the model before; by the method's name."""
    return {model.name: _sentence(model, comparison) + cut_rows(model.evaluation) for model in comparison.methods}


def _sentence(model: Model, comparison: Comparison) -> str:
    found = [_forgetting(model), _first(_UTILITY, model)]
    numbers = [_lacking(name, model) for name in _FORGETTING if _is_lacking(name, model)]
    numbers += [_numbers(metric, model, comparison) for metric in found if metric is not None]
    verdict = ""
    if found[0] is not None:
        rows = _single_rows(model, found[0], comparison)
        verdict = _verdict(found[0], model, comparison.retrained, "On average it" if rows.above else "It") + rows.words
    return f"{'; '.join(numbers) or 'neither forgetting nor utility was evaluated'}.{verdict}"


def _forgetting(model: Model) -> str | None:
    return _first(_FORGETTING, model)


def _first(names: Sequence[str], model: Model) -> str | None:
    return next((name for name in names if model.value(name) is not None), None)


def _is_lacking(metric: str, model: Model) -> bool:
    """Whether rows were there, and none of them has a number: a metric after it must not take its place unseen."""
    found = model.evaluation.metrics.get(metric)
    return found is not None and found.value is None and found.num_skipped > 0


def _lacking(metric: str, model: Model) -> str:
    return f"no {metric.replace('_', ' ')} ({model.evaluation.metrics[metric].reason})"


def _numbers(metric: str, model: Model, comparison: Comparison) -> str:
    label = metric.replace("_", " ")
    beside = {"retrained": comparison.retrained, "before": comparison.before}
    values = [
        f"{role} {format_number(other.value(metric))}"
        for role, other in beside.items()
        if other is not None and other.value(metric) is not None
    ]
    return f"{label} {format_number(model.value(metric))}" + (f" ({', '.join(values)})" if values else "")


def _verdict(metric: str, model: Model, retrained: Model | None, subject: str) -> str:
    """Where a value that falls with forgetting lies to the 95% interval of the retrained model's, if there is one."""
    found = None if retrained is None else retrained.evaluation.metrics.get(metric)
    value = model.value(metric)
    if found is None or found.interval is None or value is None:
        return ""
    low, high = found.interval
    if value < low:
        return f" {subject} forgets further than the retrained model: below its 95% interval."
    if value > high:
        return f" {subject} forgets less than the retrained model: above its 95% interval."
    return f" {subject} forgets as far as the retrained model: within its 95% interval."


def main_table(parts: list[Part], title: str) -> Table:
    """The main metrics for the terminal: a line a model, the best in bold."""
    rows = {row.metric: row for part in parts for row in part.rows}
    shown = [rows[metric] for metric in _MAIN if metric in rows]
    table = Table(title=Text(title), title_justify="left")
    table.add_column("model", overflow="fold")
    for row in shown:
        table.add_column(_heading(row.metric), justify="right")
    names = next(iter(rows.values())).cells if rows else ()
    for name in names:
        cells = [row.cells[name] for row in shown]
        table.add_row(Text(name), *(Text(format_number(cell.value), "bold" if cell.best else "") for cell in cells))
    return table


def _heading(metric: str) -> str:
    return metric.replace("_probability", " p").replace("_rouge", "").replace("_", " ")
