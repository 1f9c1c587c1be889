"""The models of a report and the part that each plays in it."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.evaluation import Evaluation


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
        """Facts of the run, in which paths are their last part: a report may be passed on."""
        return without_folders(self.evaluation.run)

    def value(self, metric: str) -> float | None:
        """Value of a metric, or None where it could not be computed or was not asked for."""
        found = self.evaluation.metrics.get(metric)
        return None if found is None else found.value

    def values(self, metric: str, set_name: str) -> dict[int, float]:
        """Per-sample numbers behind a metric, by sample id; empty where there are none."""
        found = self.evaluation.metrics.get(metric)
        return {} if found is None else found.values.get(set_name, {})


_IS_PATH = re.compile(r"(~|\.{0,2}[/\\]|[A-Za-z]:[/\\])|\S+$")  # others hold paths among their words


def without_folders(fact: Any) -> Any:
    """A fact in which a path, also each one in a command, is its last part; a hub id loses its owner.

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


@dataclass(frozen=True)
class Comparison:
    """The models of a report in the order of its columns: the model before, the methods, the retrained model.

    Args:
        models: at least one method, at most one model before, at most one retrained model; names are distinct.
    """

    models: tuple[Model, ...]

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation], retrained: Evaluation | None) -> "Comparison":
        """Takes the first of several evaluations as the model before; one alone is a method.

        Raises:
            ConfigError: there is no evaluation, or two have the same name.
        """
        if not evaluations:
            raise ConfigError(got="no results", expected="those of one model or more", fix="name a file of results")
        first = Role.METHOD if len(evaluations) == 1 else Role.BEFORE
        models = [Model(evaluations[0], first), *(Model(evaluation, Role.METHOD) for evaluation in evaluations[1:])]
        models += [] if retrained is None else [Model(retrained, Role.RETRAINED)]
        return cls.checked(models)

    @classmethod
    def checked(cls, models: Sequence[Model]) -> "Comparison":
        """Models whose roles are known.

        Raises:
            ConfigError: two have the same name.
        """
        names = [model.name for model in models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(got=f"two models named {twice}", expected="a name for each", fix="rename one of them")
        return cls(tuple(models))

    @property
    def before(self) -> Model | None:
        """The model before unlearning, if given."""
        return self._one(Role.BEFORE)

    @property
    def retrained(self) -> Model | None:
        """The model that never saw the forget rows, if given."""
        return self._one(Role.RETRAINED)

    @property
    def methods(self) -> tuple[Model, ...]:
        """The models that are judged."""
        return tuple(model for model in self.models if model.role is Role.METHOD)

    def _one(self, role: Role) -> Model | None:
        return next((model for model in self.models if model.role is role), None)
