"""The table of metrics by models as data: values, how sure they are, how far from the retrained model, the best."""

from dataclasses import dataclass
from enum import Enum

from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.report.labels import MetricText, Section, describe, reading_order
from egup_trainer.report.models import Comparison

_ON_FORGETTING = ("forget_", "mia_", "privleak")
_NOT_ASKED = "not evaluated for this model"


class Goal(str, Enum):
    """Where a metric should go; its value is the sign in the table."""

    HIGHER = "↑"
    LOWER = "↓"
    RETRAINED = "≈"
    NONE = ""


@dataclass(frozen=True)
class Cell:
    """A metric of a model.

    Args:
        value, interval, num_samples, num_skipped, reason: as in `Metric`.
        distance: |value - the retrained model's value|, where both exist.
        best: whether no other method comes closer to the goal.
    """

    value: float | None
    interval: tuple[float, float] | None
    num_samples: int
    num_skipped: int
    reason: str | None
    distance: float | None
    best: bool

    @property
    def samples(self) -> str:
        """The samples behind the value in words; empty for a value that is a function of other metrics."""
        of_all = f" of {self.num_samples + self.num_skipped}" if self.num_skipped else ""
        return f"{self.num_samples}{of_all} rows" if self.num_samples else ""


@dataclass(frozen=True)
class Row:
    """A metric of all models; cells by model name, in the order of the comparison."""

    metric: str
    text: MetricText
    goal: Goal
    cells: dict[str, Cell]

    @property
    def samples(self) -> str | None:
        """The samples behind the values in words, if they are as many for all models."""
        counts = {cell.samples for cell in self.cells.values() if cell.value is not None}
        return counts.pop() if len(counts) == 1 else None


@dataclass(frozen=True)
class Part:
    """The rows of a section."""

    section: Section
    rows: list[Row]


def table_parts(comparison: Comparison) -> list[Part]:
    """The table: sections that have metrics, each with a row a metric, each with a cell a model.

    Where a retrained model is given, a metric on forgetting is best nearest to it; other metrics are best as
    `higher_is_better` says. Only methods compete: neither the model before nor the retrained model is ever best, nor is
    a method without a rival.
    """
    metrics = dict.fromkeys(name for model in comparison.models for name in model.evaluation.metrics)
    rows = [_row(name, comparison) for name in sorted(metrics, key=reading_order)]
    parts = [Part(section, [row for row in rows if row.text.section is section]) for section in Section]
    return [part for part in parts if part.rows]


def _row(name: str, comparison: Comparison) -> Row:
    metrics = {model.name: model.evaluation.metrics.get(name) for model in comparison.models}
    higher_is_better = next(metric.higher_is_better for metric in metrics.values() if metric is not None)
    values = {model: None if metric is None else metric.value for model, metric in metrics.items()}
    aim = None if comparison.retrained is None else values[comparison.retrained.name]
    goal = _goal(name, higher_is_better, aim)
    best = _best(goal, {model.name: values[model.name] for model in comparison.methods}, aim)
    cells = {
        model: _cell(metric or unavailable(_NOT_ASKED, higher_is_better), values[model], aim, model in best)
        for model, metric in metrics.items()
    }
    return Row(name, describe(name), goal, cells)


def _goal(name: str, higher_is_better: bool | None, aim: float | None) -> Goal:
    if aim is not None and (higher_is_better is None or name.startswith(_ON_FORGETTING)):
        return Goal.RETRAINED
    return {True: Goal.HIGHER, False: Goal.LOWER, None: Goal.NONE}[higher_is_better]


def _best(goal: Goal, values: dict[str, float | None], aim: float | None) -> set[str]:
    """Names of the methods that come closest to the goal; none where fewer than two compete."""
    competing = {name: value for name, value in values.items() if value is not None}
    if goal is Goal.NONE or len(competing) < 2:
        return set()
    misses = {
        Goal.HIGHER: lambda value: -value,
        Goal.LOWER: lambda value: value,
        Goal.RETRAINED: lambda value: abs(value - aim),
    }
    scores = {name: misses[goal](value) for name, value in competing.items()}
    return {name for name, score in scores.items() if score == min(scores.values())}


def _cell(metric: Metric, value: float | None, aim: float | None, best: bool) -> Cell:
    return Cell(
        value=value,
        interval=metric.interval,
        num_samples=metric.num_samples,
        num_skipped=metric.num_skipped,
        reason=metric.reason,
        distance=None if value is None or aim is None else abs(value - aim),
        best=best,
    )
