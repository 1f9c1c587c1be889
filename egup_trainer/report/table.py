"""The table of metrics by models as data: values, their uncertainty, distances to the retrained model, the best."""

from dataclasses import dataclass
from enum import Enum

from rich.table import Table
from rich.text import Text

from egup_trainer.audit import ATTACKS
from egup_trainer.evaluation import metric_registry
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.metric_registry import OTHER, MetricText, Section
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.numbers import format_number

Parts = dict[str, list["Row"]]
"""The rows of a table by section."""

_ON_FORGETTING = ("forget_", "mia_", "privleak")
_ALWAYS_BETTER = ("forget_quality",)  # a p-value against the retrained model: the higher, the nearer to it
_NOT_EVALUATED = "not evaluated for this model"
_MAIN: tuple[str, ...] = ("forget_probability", "retain_probability", "forget_verbmem_rouge", "retain_knowmem_rouge")
_MAIN += ("model_utility", "forget_quality", "privleak")
"""Metrics that the terminal shows."""


class Goal(str, Enum):
    """Where a metric should go; its value is the sign in the table."""

    HIGHER = "↑"
    LOWER = "↓"
    RETRAINED = "≈"
    NONE = ""


@dataclass(frozen=True)
class Cell:
    """A metric of a model, its distance to that of the retrained model, and whether no other method is better."""

    metric: Metric
    distance: float | None
    best: bool

    @property
    def samples(self) -> str:
        """The number of samples behind the value in words; empty for a value that is computed from other metrics."""
        found, skipped = self.metric.num_samples, self.metric.num_skipped
        return f"{found}{f' of {found + skipped}' if skipped else ''} rows" if found else ""


@dataclass(frozen=True)
class Row:
    """A metric of all models; cells by model name, in the order of the comparison."""

    metric: str
    text: MetricText
    goal: Goal
    cells: dict[str, Cell]

    @property
    def samples(self) -> str | None:
        """The number of samples behind the values in words, if it is the same for all models."""
        counts = {cell.samples for cell in self.cells.values() if cell.metric.value is not None}
        return counts.pop() if len(counts) == 1 else None


def sections() -> list[str]:
    """Parts of the table, in its order."""
    return [*(section.value for section in Section), *(attack.title for attack in ATTACKS.values()), OTHER]


def describe(metric: str) -> MetricText:
    """Words for a metric; a metric that was not declared is listed under its own name.

    Example:
        >>> describe("sampling_best_rouge").label, describe("mine").section
        ('best rouge', 'Other')
    """
    attack = next((each for name, each in ATTACKS.items() if metric.startswith(f"{name}_")), None)
    if attack is not None:  # what an attack found is named ATTACK_METRIC
        label = metric.removeprefix(f"{attack.name}_")
        return MetricText(attack.title, attack.label(label), attack.title, f"{attack.meaning} {attack.reading}")
    return metric_registry.describe(metric)


def table_parts(comparison: Comparison) -> Parts:
    """The table: the sections that have metrics, with a row per metric and a cell per model.

    A metric on forgetting is best nearest to the retrained model, and without one, none is best; other metrics are best
    as `higher_is_better` says. Only methods compete: neither the initial model nor the retrained model is ever best,
    nor is a method without a rival.
    """
    metrics = dict.fromkeys(name for model in comparison.models for name in model.evaluation.metrics)
    rows = [_row(name, comparison) for name in sorted(metrics, key=_reading_order)]
    parts = {section: [row for row in rows if row.text.section == section] for section in sections()}
    return {section: found for section, found in parts.items() if found}


def _reading_order(metric: str) -> tuple[int, str, int]:
    """Sort key of a metric within its section; those of an attack stay as the attack has them."""
    is_declared = describe(metric).section in list(Section)
    return metric_registry.reading_order(metric) if is_declared else (0, "", 0)


def _row(name: str, comparison: Comparison) -> Row:
    found = {model.name: model.evaluation.metrics.get(name) for model in comparison.models}
    higher_is_better = next(metric.higher_is_better for metric in found.values() if metric is not None)
    metrics = {model: metric or unavailable(_NOT_EVALUATED, higher_is_better) for model, metric in found.items()}
    aim = None if comparison.retrained is None else metrics[comparison.retrained.name].value
    goal = _goal(name, higher_is_better, aim)
    best = _best(goal, {model.name: metrics[model.name].value for model in comparison.methods}, aim)
    distances = {
        model: None if aim is None or metric.value is None else abs(metric.value - aim)
        for model, metric in metrics.items()
    }
    cells = {model: Cell(metric, distances[model], model in best) for model, metric in metrics.items()}
    return Row(name, describe(name), goal, cells)


def _goal(name: str, higher_is_better: bool | None, aim: float | None) -> Goal:
    if name.startswith(_ON_FORGETTING) and name not in _ALWAYS_BETTER:
        return Goal.RETRAINED
    if aim is not None and higher_is_better is None:
        return Goal.RETRAINED
    return {True: Goal.HIGHER, False: Goal.LOWER, None: Goal.NONE}[higher_is_better]


def _best(goal: Goal, values: dict[str, float | None], aim: float | None) -> set[str]:
    """Names of the methods that come closest to the goal; none if fewer than two compete."""
    competing = {name: value for name, value in values.items() if value is not None}
    if goal is Goal.NONE or len(competing) < 2 or (goal is Goal.RETRAINED and aim is None):
        return set()
    if aim is not None and goal is Goal.RETRAINED:
        misses = {name: abs(value - aim) for name, value in competing.items()}
    else:
        misses = {name: -value if goal is Goal.HIGHER else value for name, value in competing.items()}
    return {name for name, miss in misses.items() if miss == min(misses.values())}


def main_table(parts: Parts, title: str) -> Table:
    """The main metrics for the terminal: a line per model, the best in bold."""
    rows = {row.metric: row for part in parts.values() for row in part}
    shown = [rows[metric] for metric in _MAIN if metric in rows]
    table = Table(title=Text(title), title_justify="left")
    table.add_column("model", overflow="fold")
    for row in shown:
        heading = row.metric.replace("_probability", " p").replace("_rouge", "").replace("_", " ")
        table.add_column(heading, justify="right")
    for name in next(iter(rows.values())).cells if rows else ():
        cells = [row.cells[name] for row in shown]
        values = (Text(format_number(cell.metric.value), "bold" if cell.best else "") for cell in cells)
        table.add_row(Text(name), *values)
    return table
