"""What a suite is: row sets and the metrics that they get; and the registry of suites."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, signature
from typing import TypeVar

from egup_trainer.data.schema import OnLongRow
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.registry import Measured, MetricSpec, Section, declared_metrics, title_sets
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scores import SetScores

Scores = Mapping[str, SetScores]
Plan = dict[str, Callable[[Mapping[str, Metric]], Metric]]
"""How each metric is computed, by key and in order: a function of the metrics before it."""


def declared_plan(scores: Scores, sections: tuple[Section, ...] = tuple(Section)) -> Plan:
    """The declared metrics of the row sets, as their `SetUse` says, and of the suite, as far as `sections` go.

    A metric that needs another model's results is named, too, with the reason why it has no value yet.
    """
    plan: Plan = {}
    for rows in scores.values():
        for spec in declared_metrics():
            names, role = rows.use.metrics, rows.use.role
            if spec.section is None and role in spec.roles and (names is None or spec.name in names):
                plan[f"{rows.name}_{spec.name}"] = partial(_of_set, spec, rows)
    for spec in declared_metrics():
        if spec.section in sections:
            plan[spec.name] = partial(_of_suite, spec, scores)
    return plan


def _of_set(spec: MetricSpec, rows: SetScores, done: Mapping[str, Metric]) -> Metric:
    return spec.compute(rows)


def _of_suite(spec: MetricSpec, scores: Scores, done: Mapping[str, Metric]) -> Metric:
    features = {name: rows.features for name, rows in scores.items() if rows.features is not None}
    model = Measured(done, features, {name: len(rows) for name, rows in scores.items()}, scores)
    return spec.compute(model) if spec.other is None else spec.compute(model, None)


@dataclass(frozen=True)
class Suite:
    """Row sets, and what is computed from a model's numbers on them.

    Args:
        name: of the suite, such as "tofu".
        split: which part of the suite, or None.
        row_sets: what the model is run on.
        plan: from the scores by row set to how each metric is computed; by default all declared metrics.
    """

    name: str
    split: str | None
    row_sets: list[RowSet]
    plan: Callable[[Scores], Plan] = declared_plan

    def reading(self, date: str, on_long_row: OnLongRow) -> "Suite":
        """The suite with the date that chat templates write as today's, YYYY-MM-DD, and the treatment of long rows."""
        row_sets = [
            replace(each, template=replace(each.template, date=date), on_long_row=on_long_row) for each in self.row_sets
        ]
        return replace(self, row_sets=row_sets)


def metric_names(suite: Suite) -> list[str]:
    """Keys of all metrics that the suite can have, before anything is computed."""
    return list(suite.plan({each.name: SetScores(each.name, use=each.use) for each in suite.row_sets}))


@dataclass(frozen=True)
class SuiteSpec:
    """The declaration of a suite.

    Args:
        name: of the suite, for `--suite` and `--eval_suite`.
        rows: what its rows are, for the docs.
        make: makes the suite. Its parameters are the flags that the suite reads; the ones without a default are
            required. `forget`, `retain` and `holdout` are rows, read from a source.
        flags: help texts of the flags that no other suite has. Such a flag may have the suite's name before that of
            the parameter.
    """

    name: str
    rows: str
    make: Callable[..., Suite]
    flags: Mapping[str, str]

    @property
    def parameters(self) -> dict[str, str]:
        """Parameter of `make` by the flag that gives it; the required ones first."""
        found = {name.removeprefix(f"{self.name}_"): name for name in self.flags}
        parameters = sorted(
            signature(self.make).parameters.values(), key=lambda each: each.default is not Parameter.empty
        )
        return {found.get(each.name, each.name): each.name for each in parameters}

    @property
    def required(self) -> list[str]:
        """Flags without which there is no suite."""
        parameters = signature(self.make).parameters
        return [flag for flag, name in self.parameters.items() if parameters[name].default is Parameter.empty]


_SUITES: dict[str, SuiteSpec] = {}
_Make = TypeVar("_Make", bound=Callable[..., Suite])


def register_suite(
    name: str, *, rows: str, flags: Mapping[str, str] | None = None, set_titles: Mapping[str, str] | None = None
) -> Callable[[_Make], _Make]:
    """Declares a suite by the function that makes it; see `SuiteSpec`.

    Args:
        name, rows, flags: as there.
        set_titles: what row sets are called in tables, where that is not their name.
    """

    def declare(make: _Make) -> _Make:
        _SUITES[name] = SuiteSpec(name, rows, make, flags or {})
        title_sets(**(set_titles or {}))
        return make

    return declare


def declared_suites() -> dict[str, SuiteSpec]:
    """All suites by name.

    Example:
        >>> list(declared_suites())
        ['tofu', 'muse', 'custom']
    """
    import egup_trainer.evaluation.suites  # noqa: F401

    return dict(_SUITES)
