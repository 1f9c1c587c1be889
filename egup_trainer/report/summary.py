"""The comparison in short: a sentence a method, and a table for the terminal."""

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


def sentences(comparison: Comparison) -> dict[str, str]:
    """What the numbers say of each method, beside the retrained model and the model before; by the method's name."""
    return {model.name: _sentence(model, comparison) + cut_rows(model.evaluation) for model in comparison.methods}


def _sentence(model: Model, comparison: Comparison) -> str:
    found = [next((name for name in group if model.value(name) is not None), None) for group in (_FORGETTING, _UTILITY)]
    numbers = [_numbers(metric, model, comparison) for metric in found if metric is not None]
    verdict = _verdict(found[0], model, comparison.retrained) if found[0] is not None else ""
    return f"{'; '.join(numbers) or 'neither forgetting nor utility was evaluated'}.{verdict}"


def _numbers(metric: str, model: Model, comparison: Comparison) -> str:
    label = metric.replace("_", " ")
    beside = {"retrained": comparison.retrained, "before": comparison.before}
    values = [
        f"{role} {format_number(other.value(metric))}"
        for role, other in beside.items()
        if other is not None and other.value(metric) is not None
    ]
    return f"{label} {format_number(model.value(metric))}" + (f" ({', '.join(values)})" if values else "")


def _verdict(metric: str, model: Model, retrained: Model | None) -> str:
    """Where a value that falls with forgetting lies to the 95% interval of the retrained model's, if there is one."""
    found = None if retrained is None else retrained.evaluation.metrics.get(metric)
    value = model.value(metric)
    if found is None or found.interval is None or value is None:
        return ""
    low, high = found.interval
    if value < low:
        return " It forgets further than the retrained model: below its 95% interval."
    if value > high:
        return " It forgets less than the retrained model: above its 95% interval."
    return " It forgets as far as the retrained model: within its 95% interval."


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
        table.add_row(
            Text(name), *(Text(format_number(cell.value), style="bold" if cell.best else "") for cell in cells)
        )
    return table


def _heading(metric: str) -> str:
    return metric.replace("_probability", " p").replace("_rouge", "").replace("_", " ")
