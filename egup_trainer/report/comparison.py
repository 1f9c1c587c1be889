"""The models of a report: the role of each, and the facts that are needed to judge or repeat their runs."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.evaluation import Evaluation

_ABSENT = "-"
_IS_PATH = re.compile(r"(~|\.{0,2}[/\\]|[A-Za-z]:[/\\])|\S+$")  # other texts have paths among their words


class Role(str, Enum):
    """What a model is to the comparison."""

    BEFORE = "before"
    METHOD = "method"
    RETRAINED = "retrained"


@dataclass(frozen=True)
class Model:
    """An evaluated model and its role."""

    evaluation: Evaluation
    role: Role

    @property
    def name(self) -> str:
        """Its name, which no other model of the comparison has."""
        return self.evaluation.name

    @property
    def run(self) -> dict[str, Any]:
        """Facts of the run, in which only the last part of each path is left: a report may be passed on."""
        return without_folders(self.evaluation.run)

    def value(self, metric: str) -> float | None:
        """Value of a metric, or None if it could not be computed or was not evaluated."""
        found = self.evaluation.metrics.get(metric)
        return None if found is None else found.value

    def values(self, metric: str, set_name: str) -> dict[int, float]:
        """Per-sample numbers behind a metric, by sample id; empty if there are none."""
        return self.evaluation.values_of(metric, set_name)


@dataclass(frozen=True)
class Comparison:
    """The models of a report in the order of its columns: the initial model, the methods, the retrained model.

    Args:
        models: at least one method, at most one initial model, at most one retrained model; their names differ.

    Raises:
        ConfigError: two have the same name.
    """

    models: tuple[Model, ...]

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(got=f"two models named {twice}", expected="a name for each", fix="rename one of them")

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation], retrained: Evaluation | None) -> "Comparison":
        """Takes the first of several evaluations as the initial model; a single one is a method.

        Raises:
            ConfigError: there is no evaluation, or two have the same name.
        """
        if not evaluations:
            raise ConfigError(got="no results", expected="those of one model or more", fix="name a file of results")
        first = Role.METHOD if len(evaluations) == 1 else Role.BEFORE
        models = [Model(evaluations[0], first), *(Model(evaluation, Role.METHOD) for evaluation in evaluations[1:])]
        models += [] if retrained is None else [Model(retrained, Role.RETRAINED)]
        return cls(tuple(models))

    @property
    def before(self) -> Model | None:
        """The initial model, if given."""
        return next((model for model in self.models if model.role is Role.BEFORE), None)

    @property
    def retrained(self) -> Model | None:
        """The model that never saw the forget rows, if given."""
        return next((model for model in self.models if model.role is Role.RETRAINED), None)

    @property
    def methods(self) -> tuple[Model, ...]:
        """The models that are judged."""
        return tuple(model for model in self.models if model.role is Role.METHOD)


def fact_groups(comparison: Comparison) -> dict[str, dict[str, dict[str, str]]]:
    """Facts by group, by name, then by model, "-" for a model that lacks it.

    The groups are "run" and "rows", then one for each fact that contains facts, such as versions.
    """
    found = {model.name: _facts_of(model) for model in comparison.models}
    groups: dict[str, dict[str, dict[str, str]]] = {}
    for group in dict.fromkeys(group for facts in found.values() for group in facts):
        names = dict.fromkeys(name for facts in found.values() for name in facts.get(group, {}))
        groups[group] = {
            name: {model: facts.get(group, {}).get(name, _ABSENT) for model, facts in found.items()} for name in names
        }
    return groups


def _facts_of(model: Model) -> dict[str, dict[str, str]]:
    evaluation, run = model.evaluation, model.run
    single = {name: value for name, value in run.items() if not isinstance(value, dict)}
    rows = {  # without fingerprints: a plain digest could be guessed
        name: str(facts.num_rows)
        + (f", {facts.cut} cut" if facts.cut else "")
        + (f", {facts.in_windows} in windows" if facts.in_windows else "")
        for name, facts in evaluation.sets.items()
    }
    nested = {name: _flat(value) for name, value in run.items() if isinstance(value, dict)}
    return {"run": _flat({"suite": evaluation.suite, "split": evaluation.split, **single}), "rows": rows, **nested}


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Facts as texts; a fact within another fact is named "outer: inner"."""
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}: ")
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            flat[f"{prefix}{name}"] = _ABSENT if value is None else text
    return flat


def without_folders(fact: Any) -> Any:
    """A fact in which only the last part of each path is left, also within a command; a hub id loses its owner.

    Example:
        >>> without_folders({"command": "egup evaluate --model_name_or_path /home/ada/m --forget='../a b/f.jsonl'"})
        {'command': 'egup evaluate --model_name_or_path m --forget=f.jsonl'}
    """
    if isinstance(fact, dict):
        return {name: without_folders(value) for name, value in fact.items()}
    if isinstance(fact, list):
        return [without_folders(value) for value in fact]
    if not isinstance(fact, str) or not set(fact) & set("/\\"):
        return fact
    return _last_part(fact) if _IS_PATH.match(fact) else " ".join(map(_last_part, _words(fact)))


def _words(command: str) -> list[str]:
    lexer = shlex.shlex(command, posix=True)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""  # a backslash is a part of a path
    try:
        return list(lexer)
    except ValueError:  # a quotation mark that does not end
        return command.split()


def _last_part(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    parts = [] if set(value) & set("<>|") else [part for part in re.split(r"[/\\]", value) if part]
    return flag + equals + (parts[-1] if parts else value)
