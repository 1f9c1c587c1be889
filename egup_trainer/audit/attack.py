"""What an attack works with: a model with its rows, copies of the model that it may change, and what it found."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from egup_trainer.audit.audit_options import FEWEST_ROWS, AuditOptions
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.evaluation.metric import Metric, mean_metric, unavailable
from egup_trainer.evaluation.metrics.memorization import extraction_strength
from egup_trainer.evaluation.metrics.probability import probability
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scores import SetScores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.modeling.generation import generate
from egup_trainer.modeling.limits import check_token_ids, has_room, num_positions
from egup_trainer.modeling.merging import merged
from egup_trainer.modeling.offloading import refuse_offloaded
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.scan import score_rows

Curve = list[tuple[int, float]]
"""Steps, and the probability after each; or layers, and a number at each."""
Band = list[tuple[int, float, float]]
"""Steps, and the lower and upper bound of the mean probability after each."""
_NUMBERS: dict[str, Callable[[SetScores], Metric]] = {
    "probability": probability,
    "extraction_strength": extraction_strength,
}
RECALL = tuple(f"{name}_{number}" for name in ("forget", "retain") for number in _NUMBERS)
"""Names of the numbers that `recall_metrics` returns."""
NO_QUESTION = "no forget row has a question"
NO_ROOM = "after no question of a forget row has the model room for so many new tokens (--max_new_tokens)"
NEEDS_BEFORE = "needs the model before unlearning (--model_before)"
FAILED = "failed"
"""How the reason of an attack begins that ended with an error."""
NEEDS_RETRAINED = "needs the retrained model (--retrained_model)"


@dataclass(frozen=True)
class Finding:
    """What an attack found in one model.

    Args:
        metrics: by name.
        curves: probability by step, by name, if the attack takes steps.
        bands: their 95% intervals over seeds, by name; none for a single seed.
        reason: why the attack was not run; None if it was.
        notes: what it found beside numbers, such as which prompt it was.
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    bands: dict[str, Band] = field(default_factory=dict)
    reason: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the attack was run and ended with an error, which is its reason."""
        return self.reason is not None and self.reason.startswith(f"{FAILED}: ")


@dataclass(frozen=True)
class Target:
    """A model under attack.

    Args:
        model: the model; no attack changes its weights.
        sets: the rows "forget", "retain" and, if available, "holdout".
        before: what the same attacks found in the initial model, by attack.
        retrained: what the same attacks found in the retrained model, by attack.
        load_before: returns the initial model itself; None if there is none.
    """

    model: nn.Module
    tokenizer: Any
    sets: dict[str, list[Row]]
    options: AuditOptions
    before: dict[str, Finding] = field(default_factory=dict)
    retrained: dict[str, Finding] = field(default_factory=dict)
    load_before: Callable[[], nn.Module] | None = None

    @property
    def forget(self) -> list[Row]:
        """The rows that the model should have forgotten."""
        return self.sets["forget"]

    def row_set(self, name: str, rows: list[Row] | None = None, **wanted: Any) -> RowSet:
        """Rows to score with their first answers alone, those of the set `name` by default.

        Args:
            wanted: further fields of the `RowSet`.
        """
        rows = self.sets[name] if rows is None else rows
        return self.options.row_set(name, [Row(row.prompt, row.answer) for row in rows], **wanted)

    def score(
        self, *row_sets: RowSet, model: nn.Module | None = None, feature_layer: float = 0.5
    ) -> dict[str, SetScores]:
        """Scores of row sets under the model, or under another one in its place."""
        options = ScoringOptions(self.options.batch_size, feature_layer, progress=self.options.progress)
        return score_sets(self.model if model is None else model, self.tokenizer, list(row_sets), options)

    def tokenized(
        self,
        rows: Sequence[Row],
        name: str,
        numbers: Sequence[int] | None = None,
        template: Template | None = None,
    ) -> RowDataset:
        """The rows, each with its first answer alone, tokenized; `template` is another one than the audit's."""
        dataset = tokenize(
            [Row(row.prompt, row.answer) for row in rows],
            self.tokenizer,
            name=name,
            max_length=self.options.max_length,
            template=template or self.options.template,
            numbers=numbers,
            on_long_row=self.options.on_long_row,
        )
        check_token_ids(self.model, [row.input_ids for row in dataset.rows], f"the {name}")
        return dataset

    def fitting(self, rows: RowDataset) -> RowDataset:
        """The rows that the model has room for; a row of several samples stays or goes as a whole."""
        limit = num_positions(self.model)
        long = {row.source.number for row in rows.rows if limit is not None and len(row) > limit}
        return RowDataset([row for row in rows.rows if row.source.number not in long])

    def have_room(self, rows: Sequence[Row]) -> list[bool]:
        """Of each row, whether the model has room for all new tokens after its prompt."""
        dataset = self.tokenized(rows, "forget set")
        return [self.has_room(len(dataset.rows[index].prompt)) for index in dataset.first_samples]

    def has_room(self, length: int) -> bool:
        """Whether the model has room for all new tokens after a prompt of so many tokens."""
        return has_room(self.model, length, self.options.max_new_tokens)

    def asked(self) -> tuple[list[int], str]:
        """The forget rows with a prompt after which the model has room to write, and, if there are none, why."""
        found = [number for number, row in enumerate(self.forget) if row.prompt]
        if not found:
            return [], NO_QUESTION
        have_room = self.have_room([self.forget[number] for number in found])
        found = [number for number, has_room in zip(found, have_room, strict=True) if has_room]
        return found, "" if found else NO_ROOM

    def nll(self, rows: RowDataset, read: Callable[..., AnswerOutputs], title: str | None = None) -> Tensor:
        """l of each row as `read` reads the model, (R,), nats per token; `title` is that of the progress bar."""
        scores = score_rows(
            self.model,
            read,
            rows,
            RowCollator(self.tokenizer),
            batch_size=self.options.batch_size,
            description=None if title is None else self.options.title(title),
        )
        return scores.nll_of(torch.tensor(rows.owners))

    def generate(self, prompts: Sequence[np.ndarray], title: str, **options: Any) -> list[str]:
        """What the model writes after each prompt; `options` are others than the audit's for the function `generate`.

        Args:
            title: of the progress bar.
        """
        options = {"max_new_tokens": self.options.max_new_tokens, "batch_size": self.options.batch_size, **options}
        return generate(self.model, self.tokenizer, prompts, description=self.options.title(title), **options)

    def excess(self, attack: str, name: str, metric: Metric) -> Metric:
        """Mean over forget rows of a metric minus that of the retrained model on the same row, with its interval.

        Example:
            >>> # target.excess("worst_prompt", "worst_probability", metrics["worst_probability"])
        """
        found = self.retrained.get(attack, Finding(reason=NEEDS_RETRAINED))
        other = found.metrics.get(name, unavailable(found.reason or NEEDS_RETRAINED))
        lack = next((str(each.reason) for each in (metric, other) if each.value is None), "")
        mine, theirs = (each.values.get("forget", {}) for each in (metric, other))
        differences = {row: value - theirs[row] for row, value in mine.items() if row in theirs}
        return mean_metric("forget", differences, num_rows=len(self.forget), without=lack)


def given_and_held_back(options: AuditOptions, num_rows: int) -> tuple[list[int], list[int]]:
    """Which forget rows an attacker is given, and which of them are held back to measure what that brings back.

    Args:
        options: the first of `relearn_sizes`, and `seed`.
        num_rows: forget rows, more than `FEWEST_ROWS`.

    Example:
        >>> given_and_held_back(AuditOptions(relearn_sizes=[5]), 10)[0] == sample_rows(5, 10, seed=0)
        True
    """
    count = min(options.first_size(num_rows), num_rows - 1)
    given = sample_rows(count, num_rows, options.seed)
    return given, [number for number in range(num_rows) if number not in set(given)]


def too_few(num_rows: int) -> str:
    """The reason not to run an attack that is given rows."""
    return f"{num_rows} forget rows: {FEWEST_ROWS} to learn and one to hold back are needed"


def sample_rows(count: int, of: int, seed: int) -> list[int]:
    """Indices of `count` out of `of` rows, sampled by the seed, in ascending order.

    Example:
        >>> sample_rows(3, 3, seed=5)
        [0, 1, 2]
    """
    return sorted(np.random.default_rng(seed).permutation(of)[:count].tolist())


def recall_metrics(target: Target, model: nn.Module, prefix: str = "") -> dict[str, Metric]:
    """Probability and extraction strength of forget and retain rows under a model that was made from the target's.

    Args:
        model: is read in the place of the target's model.
    """
    scores = target.score(target.row_set("forget"), target.row_set("retain"), model=model)
    return {
        f"{prefix}{set_name}_{name}": replace(
            number(scores[set_name]), higher_is_better=None if set_name == "forget" else True
        )
        for set_name in scores
        for name, number in _NUMBERS.items()
    }


def is_quantized(model: Any) -> bool:
    """Whether the model's weights are quantized, so that they can be neither trained nor quantized again."""
    return getattr(model, "is_quantized", False) or any(
        getattr(module, "is_quantized", False) for module in model.modules()
    )


def merged_copy(model: nn.Module) -> Any:
    """A copy of a model of floating-point weights, in evaluation mode, with its adapters merged into the weights."""
    from peft import PeftModel

    refuse_offloaded(model.parameters(), "an attack on a copy")
    twin: Any = copy.deepcopy(model)
    return (merged(twin) if isinstance(twin, PeftModel) else twin).eval()
