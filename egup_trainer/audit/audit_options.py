"""How attacks are run."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, OnLongRow, Row
from egup_trainer.errors import check_range

if TYPE_CHECKING:
    from egup_trainer.evaluation.rows import RowSet


@dataclass(frozen=True)
class AuditOptions:
    """How attacks are run.

    Args:
        seed: Seed of the choice of rows, of their order, and of sampling.
        relearn_share: Share of the forget rows to learn again, at least four rows.
        relearn_steps: Optimizer steps of relearning.
        relearn_learning_rate: Learning rate of relearning, constant.
        relearn_batch_size: Rows per step of relearning.
        relearn_every: Steps between two points of the curve.
        num_samples: Number of generations to sample for each forget row.
        max_new_tokens: Maximum number of tokens per generation.
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
    relearn_share: float = 0.1
    relearn_steps: int = 20
    relearn_learning_rate: float = 1e-4
    relearn_batch_size: int = 4
    relearn_every: int = 2
    num_samples: int = 8
    max_new_tokens: int = 200
    max_length: int = MAX_LENGTH
    on_long_row: OnLongRow = OnLongRow.WINDOW
    max_rows: int | None = None
    template: Template = field(default_factory=Template)
    batch_size: int = 16
    progress: bool = True

    def __post_init__(self) -> None:
        counts = ("relearn_steps", "relearn_batch_size", "relearn_every", "num_samples", "max_new_tokens", "max_length")
        check_range(self, (*counts, "max_rows", "batch_size"), low=1, whole=True)
        check_range(self, ("seed",), low=0, whole=True)
        check_range(self, ("relearn_share",), low=0, high=1, low_is_allowed=False)
        check_range(self, ("relearn_learning_rate",), low=0, low_is_allowed=False)

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
