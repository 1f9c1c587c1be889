"""What an attack is: a function from a model with its rows to what it found; and the registry of attacks.

An attack is a file and a function of its name, and an entry in `ATTACKS`.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from torch import nn

from egup_trainer.audit.options import AuditOptions
from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.errors import ConfigError, did_you_mean
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scores import SetScores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.modeling.limits import check_token_ids
from egup_trainer.modeling.merging import merged

Curve = list[tuple[int, float]]
"""Steps, and the probability after each."""
NO_QUESTION = "no forget row has a question"


@dataclass(frozen=True)
class Finding:
    """What an attack found in one model.

    Args:
        metrics: by name.
        curves: probability by step, by name; only relearning has curves.
        reason: why the attack was not run; None if it was.
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Target:
    """A model under attack.

    Args:
        model: the model; no attack changes its weights.
        tokenizer: the model's tokenizer.
        sets: the rows "forget", "retain" and, if available, "holdout".
        options: how attacks are run.
        before: what the same attacks found in the initial model, by attack.
    """

    model: nn.Module
    tokenizer: Any
    sets: dict[str, list[Row]]
    options: AuditOptions
    before: dict[str, Finding] = field(default_factory=dict)

    @property
    def forget(self) -> list[Row]:
        """The rows that the model should have forgotten."""
        return self.sets["forget"]

    def row_set(self, name: str, rows: list[Row] | None = None, **wanted: Any) -> RowSet:
        """Rows to score, those of the set `name` by default; `wanted` are further fields of the `RowSet`."""
        return self.options.row_set(name, self.sets[name] if rows is None else rows, **wanted)

    def score(
        self, *row_sets: RowSet, model: nn.Module | None = None, feature_layer: float = 0.5
    ) -> dict[str, SetScores]:
        """Scores of row sets under the model, or under another one in its place."""
        options = ScoringOptions(self.options.batch_size, feature_layer, progress=self.options.progress)
        return score_sets(self.model if model is None else model, self.tokenizer, list(row_sets), options)

    def tokenized(self, rows: Sequence[Row], name: str, numbers: Sequence[int] | None = None) -> RowDataset:
        """The rows, each with its first answer alone, tokenized."""
        dataset = tokenize(
            [Row(row.prompt, row.answer) for row in rows],
            self.tokenizer,
            name=name,
            max_length=self.options.max_length,
            template=self.options.template,
            numbers=numbers,
            on_long_row=self.options.on_long_row,
        )
        check_token_ids(self.model, dataset.rows, f"the {name}")
        return dataset


@dataclass(frozen=True)
class Attack:
    """The declaration of an attack.

    Args:
        name: of the attack, of its file and of the function in it that runs it.
        title: its part of the report's table.
        meaning: what its numbers are, for readers of the report.
        needs_holdout: whether it compares forget rows with rows that no model saw.
    """

    name: str
    title: str
    meaning: str
    needs_holdout: bool = False

    def run(self, target: Target) -> Finding:
        """Attacks the target. The file is imported now, as attacks need libraries that take seconds to import."""
        return getattr(import_module(f"egup_trainer.audit.{self.name}"), self.name)(target)


ATTACKS = {
    attack.name: attack
    for attack in (
        Attack(
            "relearning",
            "Relearning",
            "Probability of forget answers while the model is fine-tuned on a few other forget rows (forget), on "
            "retain rows (retain), and of the relearned rows (relearned). Speed is the mean over the curve.",
        ),
        Attack("quantization", "Quantisation", "The same rows with the weights as given, in 8 bits and in 4."),
        Attack(
            "prompts",
            "Prompts",
            "Forget rows asked in other ways: reworded, in another language, after a phrase, after examples, with the "
            "answer begun.",
        ),
        Attack(
            "sampling",
            "Sampling",
            "ROUGE-L recall of generations sampled at temperature 1: the best and the mean per row.",
        ),
        Attack(
            "probe",
            "Probe",
            "AUC for distinguishing forget from holdout rows by a layer's features; 0.5 is chance.",
            needs_holdout=True,
        ),
        Attack(
            "membership", "Membership attacks", "AUC for distinguishing forget from holdout rows; 0.5 is chance.", True
        ),
    )
}


def attacks_named(names: Iterable[str]) -> list[str]:
    """The given names of attacks, each once, in the order of `ATTACKS`.

    Raises:
        ConfigError: there is no attack of such a name, or no attack is named at all.

    Example:
        >>> attacks_named(["prompts", "relearning", "prompts"])
        ['relearning', 'prompts']
    """
    wanted = list(names)
    for name in wanted:
        if name not in ATTACKS:
            raise ConfigError(
                got=f"the unknown attack {name}",
                expected=f"attacks among {', '.join(ATTACKS)}",
                fix=did_you_mean(name, ATTACKS, "set --attacks"),
            )
    if not wanted:
        raise ConfigError(got="no attack", expected=f"some of {', '.join(ATTACKS)}", fix="set --attacks")
    return [name for name in ATTACKS if name in wanted]


def sample_rows(count: int, of: int, seed: int) -> list[int]:
    """Indices of `count` out of `of` rows, sampled by the seed, in ascending order.

    Example:
        >>> sample_rows(3, 3, seed=5)
        [0, 1, 2]
    """
    return sorted(np.random.default_rng(seed).permutation(of)[:count].tolist())


def is_quantised(model: Any) -> bool:
    """Whether the model's weights are quantised, so that they can be neither trained nor quantised again."""
    return getattr(model, "is_quantized", False) or any(
        getattr(module, "is_quantized", False) for module in model.modules()
    )


def merged_copy(model: nn.Module) -> Any:
    """A copy of a model of floating-point weights, in evaluation mode, with its adapters merged into the weights."""
    from peft import PeftModel

    twin: Any = copy.deepcopy(model)
    return (merged(twin) if isinstance(twin, PeftModel) else twin).eval()
