"""How attacks are run."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, OnLongRow, Row
from egup_trainer.errors import ConfigError, check_range

if TYPE_CHECKING:
    from egup_trainer.evaluation.rows import RowSet

FEWEST_ROWS = 4
"""Minimum number of forget rows that are relearned by default."""
RELEARNED_SHARE = 0.1
"""Share of the forget rows that are relearned by default."""
RELEARN_RATES = (1e-4, 5e-4)
"""Learning rates of relearning by default."""


@dataclass(frozen=True)
class AuditOptions:
    """How attacks are run.

    Args:
        seed: Seed of the choice of rows, of their order, and of sampling.
        relearn_sizes: Numbers of rows to relearn, each in runs of its own; by default a tenth of the forget rows, but
            at least four.
        relearn_learning_rates: Learning rates of relearning, constant, each in runs of its own; by default 1e-4 and
            5e-4.
        relearn_seeds: Number of runs of relearning at each size and rate; they differ in rows and order.
        relearn_steps: Optimizer steps of relearning.
        relearn_batch_size: Rows per step of relearning.
        relearn_every: Steps between two points of the curve.
        soft_prompt_steps: Optimizer steps that train a soft prompt.
        search_rounds: Rounds of the search for a prompt.
        num_samples: Number of generations to sample for each forget row.
        max_new_tokens: Maximum number of tokens per generation.
        judge_model: Folder or hub id of an embedding model or of a classifier of entailment, which judges generations.
        max_length: Maximum number of tokens per text.
        on_long_row: what to do with a longer text that has a prompt.
        max_rows: Maximum number of rows of each set, sampled by the seed; by default all.
        template: markers for tokenizers without a chat template.
        batch_size: rows of up to 256 tokens in a forward pass.
        progress: whether to show progress bars.

    Raises:
        ConfigError: a number is out of its range.
    """

    seed: int = 0
    relearn_sizes: list[int] | None = None
    relearn_learning_rates: list[float] | None = None
    relearn_seeds: int = 3
    relearn_steps: int = 20
    relearn_batch_size: int = 4
    relearn_every: int = 5
    soft_prompt_steps: int = 50
    search_rounds: int = 3
    num_samples: int = 8
    max_new_tokens: int = 200
    judge_model: str | None = None
    max_length: int = MAX_LENGTH
    on_long_row: OnLongRow = OnLongRow.WINDOW
    max_rows: int | None = None
    template: Template = field(default_factory=Template)
    batch_size: int = 16
    progress: bool = True

    def __post_init__(self) -> None:
        counts = ("relearn_seeds", "relearn_steps", "relearn_batch_size", "relearn_every", "soft_prompt_steps")
        others = ("search_rounds", "num_samples", "max_new_tokens", "max_length", "max_rows", "batch_size")
        check_range(self, (*counts, *others), low=1, whole=True)
        check_range(self, ("seed",), low=0, whole=True)
        _check_list(self, "relearn_sizes", "a whole number of at least 1", lambda size: type(size) is int and size > 0)
        _check_list(self, "relearn_learning_rates", "a number above 0", lambda rate: 0 < rate < math.inf)

    def sizes_for(self, num_forget: int) -> list[int]:
        """Numbers of rows that relearning is shown, each once; the first is that of the numbers without a size.

        Raises:
            ConfigError: one of `relearn_sizes` leaves no forget row to measure.

        Example:
            >>> AuditOptions().sizes_for(70), AuditOptions(relearn_sizes=[8, 16, 8]).sizes_for(70)
            ([7], [8, 16])
        """
        if self.relearn_sizes is None:
            return [self.first_size(num_forget)]
        if max(self.relearn_sizes) >= num_forget:
            raise ConfigError(
                got=f"relearn_sizes={max(self.relearn_sizes)} with {num_forget} forget rows",
                expected="fewer rows than there are, so that others can be measured",
                fix="set --relearn_sizes",
            )
        return list(dict.fromkeys(self.relearn_sizes))

    def first_size(self, num_rows: int) -> int:
        """How many of so many rows an attacker is given who is given some once.

        Example:
            >>> AuditOptions().first_size(70), AuditOptions(relearn_sizes=[8, 16]).first_size(10)
            (7, 8)
        """
        return self.relearn_sizes[0] if self.relearn_sizes else max(FEWEST_ROWS, round(RELEARNED_SHARE * num_rows))

    @property
    def rates(self) -> list[float]:
        """Learning rates of relearning, each once; the first is that of the numbers without a rate."""
        return list(dict.fromkeys(self.relearn_learning_rates or RELEARN_RATES))

    @property
    def settings(self) -> dict[str, Any]:
        """What numbers depend on, for the record: only audits of the same settings can be compared."""
        found = {
            name: value for name, value in vars(self).items() if name not in ("template", "batch_size", "progress")
        }
        template = self.template
        given = {"system_prompt": template.system_prompt, "template_kwargs": dict(template.kwargs)}
        given = {name: value for name, value in given.items() if value}
        return {**found, "markers": [template.user, template.assistant, template.always], **given}

    def row_set(self, name: str, rows: list[Row], **wanted: Any) -> "RowSet":
        """Rows as they are read in an audit; `wanted` are further fields of the `RowSet`."""
        from egup_trainer.evaluation.rows import RowSet  # here: `egup audit --help` must not wait for torch

        reading: dict[str, Any] = {
            "max_length": self.max_length,
            "on_long_row": self.on_long_row,
            "template": self.template,
        }
        return RowSet(name, rows, **reading, **wanted)

    def title(self, text: str) -> str | None:
        """Title of a progress bar, or None if no bars are shown."""
        return text if self.progress else None


def _check_list(options: AuditOptions, name: str, expected: str, fits: Callable[[Any], bool]) -> None:
    """Raises `ConfigError` for a list that is empty or has a value that does not fit; None is the default."""
    values = getattr(options, name)
    if values is None:
        return
    wrong = [value for value in values if type(value) not in (int, float) or not fits(value)]
    if wrong or not values:
        raise ConfigError(got=f"{name}={wrong[0] if wrong else values}", expected=expected, fix=f"set --{name}")
