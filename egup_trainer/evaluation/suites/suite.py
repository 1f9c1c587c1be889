"""What a suite is: row sets and the metrics that they get."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import OnLongRow
from egup_trainer.evaluation.definitions import Definitions
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.metric_registry import Measured, MetricSpec, Section, declared_metrics
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
            if spec.section is None and (role in spec.roles if names is None else spec.name in names):
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
        split: of its forget set, such as "forget10"; None if there is only one.
        row_sets: what the model is run on.
        plan: from the scores by row set to how each metric is computed; by default all declared metrics.
    """

    name: str
    split: str | None
    row_sets: list[RowSet]
    plan: Callable[[Scores], Plan] = declared_plan

    def reading(self, template: Template, on_long_row: OnLongRow) -> "Suite":
        """The suite with what chat templates are given, as in `template`, and the treatment of long rows.

        Rows that are always written out, as their benchmark has them, get no system turn.
        """
        given: dict[str, Any] = {
            "date": template.date,
            "system_prompt": template.system_prompt,
            "kwargs": template.kwargs,
        }
        row_sets = [
            replace(
                each,
                template=replace(each.template, **given) if each.template.closed else each.template,
                on_long_row=on_long_row,
            )
            for each in self.row_sets
        ]
        return replace(self, row_sets=row_sets)

    def following(self, definitions: Definitions) -> "Suite":
        """The suite whose tokens and metrics follow these definitions."""
        row_sets = [replace(each, use=replace(each.use, definitions=definitions)) for each in self.row_sets]
        return replace(self, row_sets=row_sets)


def metric_names(suite: Suite) -> list[str]:
    """Keys of all metrics that the suite can have, before anything is computed."""
    return list(suite.plan({each.name: SetScores(each.name, use=each.use) for each in suite.row_sets}))
