"""Which attacks are run, and how."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, OnLongRow
from egup_trainer.errors import ConfigError, check_range, did_you_mean


class Attack(str, Enum):
    """Ways to bring forgotten rows back, or to tell that they were there."""

    RELEARNING = "relearning"
    QUANTIZATION = "quantization"
    PROMPTS = "prompts"
    SAMPLING = "sampling"
    PROBE = "probe"
    MEMBERSHIP = "membership"


NEEDS_HOLDOUT = frozenset({Attack.PROBE, Attack.MEMBERSHIP})
"""The attacks that compare forget rows with rows that no model saw."""


def attacks_named(names: Iterable[str]) -> tuple[Attack, ...]:
    """The attacks of the given names, each once, in the order of `Attack`.

    Raises:
        ConfigError: there is no attack of such a name, or none is named at all.

    Example:
        >>> [attack.value for attack in attacks_named(["prompts", "relearning", "prompts"])]
        ['relearning', 'prompts']
    """
    known = [attack.value for attack in Attack]
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise ConfigError(
                got=f"the unknown attack {name}",
                expected=f"attacks among {', '.join(known)}",
                fix=did_you_mean(name, known, "set --attacks"),
            )
    if not wanted:
        raise ConfigError(got="no attack", expected=f"some of {', '.join(known)}", fix="set --attacks")
    return tuple(attack for attack in Attack if attack.value in wanted)


@dataclass(frozen=True)
class AuditOptions:
    """How attacks are run.

    Args:
        seed: of the choice of rows, their order, and what is drawn.
        relearn_share: share of the forget rows that is learned again, four rows at least.
        relearn_steps: optimizer steps.
        relearn_learning_rate: of AdamW, constant.
        relearn_batch_size: rows in a step.
        relearn_every: steps between two points of the curve.
        num_samples: generations drawn for each row.
        max_new_tokens: most tokens in a generation.
        max_length: most tokens in a text.
        on_long_row: what becomes of a longer text with a prompt.
        max_rows: most rows of each set, drawn by the seed; None for all.
        template: markers for tokenizers without a chat template.
        batch_size: rows in a forward pass, of up to 256 tokens.
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
        """What numbers depend on, for the record: audits made otherwise cannot be compared."""
        found = {
            name: value for name, value in vars(self).items() if name not in ("template", "batch_size", "progress")
        }
        return {**found, "markers": [self.template.user, self.template.assistant, self.template.always]}

    def title(self, text: str) -> str | None:
        """Title of a progress bar, or None where there are to be none."""
        return text if self.progress else None
