"""What is needed to judge or repeat the runs, side by side."""

from dataclasses import dataclass
from typing import Any

from egup_trainer.report.models import Comparison, Model

_ABSENT = "-"


@dataclass(frozen=True)
class Fact:
    """A fact of the runs: its name, and its value by model name, "-" where a model lacks it."""

    name: str
    values: dict[str, str]

    @property
    def in_common(self) -> str | None:
        """The value, if all models have the same."""
        return next(iter(self.values.values())) if len(set(self.values.values())) == 1 else None


def fact_groups(comparison: Comparison) -> dict[str, list[Fact]]:
    """Facts by group: "run" and "rows", then one group for each fact that has facts within it, such as versions."""
    found = {model.name: _grouped(model) for model in comparison.models}
    groups = dict.fromkeys(group for facts in found.values() for group in facts)
    return {group: _side_by_side({name: facts.get(group, {}) for name, facts in found.items()}) for group in groups}


def _side_by_side(facts: dict[str, dict[str, str]]) -> list[Fact]:
    names = dict.fromkeys(name for each in facts.values() for name in each)
    return [Fact(name, {model: each.get(name, _ABSENT) for model, each in facts.items()}) for name in names]


def _grouped(model: Model) -> dict[str, dict[str, str]]:
    evaluation, run = model.evaluation, model.run
    single = {name: value for name, value in run.items() if not isinstance(value, dict)}
    rows = {  # no fingerprint: a plain digest could be guessed
        name: str(facts.num_rows)
        + (f", {facts.cut} cut" if facts.cut else "")
        + (f", {facts.in_windows} in windows" if facts.in_windows else "")
        for name, facts in evaluation.sets.items()
    }
    nested = {name: _flat(value) for name, value in run.items() if isinstance(value, dict)}
    return {"run": _flat({"suite": evaluation.suite, "split": evaluation.split, **single}), "rows": rows, **nested}


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Facts as texts; what stands within another fact is named "outer: inner"."""
    flat: dict[str, str] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{prefix}{name}: ") if isinstance(value, dict) else {f"{prefix}{name}": _text(value)}
    return flat


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return _ABSENT if value is None else str(value)
