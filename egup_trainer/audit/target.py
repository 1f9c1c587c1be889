"""What is attacked: a model with its rows. And copies of the model, which attacks may change as they like."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from egup_trainer.audit.options import AuditOptions
from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scores import SetScores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.modeling.limits import check_token_ids
from egup_trainer.modeling.merging import merged


@dataclass(frozen=True)
class Target:
    """A model under attack.

    Args:
        model: the model; no attack changes its weights.
        tokenizer: the model's tokenizer.
        sets: the rows "forget", "retain" and, if there are any, "holdout".
        options: how attacks are run.
    """

    model: nn.Module
    tokenizer: Any
    sets: dict[str, list[Row]]
    options: AuditOptions

    @property
    def forget(self) -> list[Row]:
        """The rows that the model is to have forgotten."""
        return self.sets["forget"]

    def row_set(self, name: str, rows: list[Row] | None = None, **wanted: Any) -> RowSet:
        """Rows to score, of the set `name` unless others are given, with what is wanted of them."""
        rows = self.sets[name] if rows is None else rows
        options = self.options
        reading: dict[str, Any] = {
            "max_length": options.max_length,
            "on_long_row": options.on_long_row,
            "template": options.template,
        }
        return RowSet(name, rows, **reading, **wanted)

    def score(
        self, *row_sets: RowSet, model: nn.Module | None = None, feature_layer: float = 0.5
    ) -> dict[str, SetScores]:
        """Scores of row sets under the model, or under another one in its place."""
        options = ScoringOptions(self.options.batch_size, feature_layer, progress=self.options.progress)
        return score_sets(self.model if model is None else model, self.tokenizer, list(row_sets), options)

    def tokenized(self, rows: Sequence[Row], name: str, numbers: Sequence[int] | None = None) -> RowDataset:
        """Rows with their first answer alone, tokenized."""
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


def draw_rows(count: int, of: int, seed: int) -> list[int]:
    """Places of `count` of so many rows, drawn by the seed, in ascending order.

    Example:
        >>> draw_rows(3, 3, seed=5)
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
