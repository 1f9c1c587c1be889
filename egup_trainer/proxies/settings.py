"""How proxies are written, and the digest by which a run knows its own files."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from egup_trainer.data.schema import Row
from egup_trainer.errors import check_layer, check_range
from egup_trainer.extras import require_extra

ATTEMPTS_PER_ROW = 8
_MIN_USABLE = 8
_VERSION = 1
"""Increased whenever prompts or filters change, as proxies written before are then of another kind."""


@dataclass(frozen=True)
class ProxySettings:
    """How proxies are written.

    Args:
        num_rows: Proxies to write.
        num_examples: Number of forget rows shown in each prompt.
        temperature: Temperature of sampling; above 0.
        top_p: Sample from the most likely tokens that together have this probability; above 0, at most 1.
        max_new_tokens: Maximum number of tokens per attempt; by default twice the length of the longer forget rows.
        max_attempts: Maximum number of attempts; by default 8 per row.
        seed: Seed of the examples and of sampling.
        feature_layer: Layer of the features that show near-duplicates: a share of the depth, or an index.
        max_length: Maximum number of tokens of a row when it is scored.

    Raises:
        ConfigError: a value is out of range.
    """

    num_rows: int = 64
    num_examples: int = 4
    temperature: float = 0.9
    top_p: float = 0.95
    max_new_tokens: int | None = None
    max_attempts: int | None = None
    seed: int = 0
    feature_layer: float = 0.5
    max_length: int = 1024

    def __post_init__(self) -> None:
        require_extra("proxies", "writing proxies")
        check_range(self, ("num_rows", "num_examples", "max_new_tokens", "max_attempts"), low=1, whole=True)
        check_range(self, ("seed",), low=0, whole=True)
        check_range(self, ("max_length",), low=8, whole=True)
        check_range(self, ("temperature",), low=0, low_is_allowed=False)
        check_layer(self, "feature_layer")
        check_range(self, ("top_p",), low=0, high=1, low_is_allowed=False)

    @property
    def budget(self) -> int:
        """Maximum number of attempts."""
        return self.max_attempts or ATTEMPTS_PER_ROW * self.num_rows

    @property
    def min_rows(self) -> int:
        """Minimum number of rows for a boundary: a quarter of `num_rows` but at least 8, or all if they are fewer."""
        return min(self.num_rows, max(_MIN_USABLE, -(-self.num_rows // 4)))

    def for_digest(self) -> dict[str, Any]:
        """The values that determine each attempt. The numbers of rows and attempts do not: they may be raised later."""
        values = {"version": _VERSION, **asdict(self)}
        return {name: value for name, value in values.items() if name not in ("num_rows", "max_attempts")}


def new_tokens_for(texts: Sequence[str], tokenizer: Any) -> int:
    """Twice the length of the longer texts in tokens, so that whatever is cut off is too long anyway."""
    chosen = texts[:: max(len(texts) // 256, 1)]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in chosen]
    return 2 * int(np.percentile(lengths, 95))


def digest_of_rows(rows: Sequence[Row]) -> str:
    """Digest of prompts and answers, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for row in rows:
        turns = [[message.role, message.content] for message in row.prompt]
        digest.update(json.dumps([turns, row.answer]).encode() + b"\n")
    return digest.hexdigest()
