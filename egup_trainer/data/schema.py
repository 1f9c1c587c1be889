"""Typed rows: what a user's data becomes before tokenization, and what tokenization makes of it."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

IGNORE_INDEX = -100
"""Label of a token that is not scored (prompt and padding), as in all of transformers."""

NO_SAMPLE = -1
"""Sample id of a row that only fills up a batch; it has no scored token and counts nowhere."""


MAX_LENGTH = 2048
"""Most tokens in a text that is evaluated, unless asked otherwise: the same everywhere, so that results compare."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: `role` is "system", "user" or "assistant", `content` what it says."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One sample: the turns before the answer, and the answer that is scored.

    A question/answer row has one user turn; a chat row has all turns but the last; a plain-text row has none.

    Args:
        prompt: turns that the model is given. They are never scored.
        answer: the text that is scored and unlearned (or retained).
        paraphrase: another wording of the answer, if the data has one (used by `clreg_positives="paraphrase"`).
        perturbed: wrong answers in the paraphrase's wording, if the data has them; evaluation compares with them.
        alternatives: further right answers, for evaluation alone.
        alternates: other answers, wrong but of the same kind, if the data has them (used by `objective="altpo"`).
        paraphrased_questions: other wordings of the last user turn, for audits alone.
        translated_questions: the last user turn in other languages, for audits alone.
    """

    prompt: tuple[Message, ...]
    answer: str
    paraphrase: str | None = None
    perturbed: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    alternates: tuple[str, ...] = ()
    paraphrased_questions: tuple[str, ...] = ()
    translated_questions: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowSource:
    """The row that a sample comes from: a long text makes several samples.

    Args:
        number: place of the row in its source.
        key: digest of the whole row; equal for two rows with the same prompt and the same answer.
    """

    number: int
    key: bytes

    @classmethod
    def of(cls, number: int, row: "TokenizedRow") -> "RowSource":
        """The source of a row that is still whole."""
        return cls(number, hashlib.blake2b(row.key(), digest_size=16).digest())


@dataclass(frozen=True)
class TokenizedRow:
    """A sample as the model sees it.

    Args:
        input_ids: token ids, shape (T,), int32.
        labels: the same ids where a token is scored, `IGNORE_INDEX` elsewhere, shape (T,), int32.
        truncated: whether the row was cut to the maximum length.
        is_closed: whether its last token closes the answer: an end of the turn or of the sequence, which is scored.
        paraphrase: the same prompt with the paraphrased answer, if the row had one.
        alternate: the same prompt with the answer that an objective prefers to the row's own, if one does.
        source: the row that the sample comes from; None for a filler.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    truncated: bool = False
    is_closed: bool = False
    paraphrase: "TokenizedRow | Any" = None
    alternate: "TokenizedRow | Any" = None
    source: RowSource | Any = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def is_scored(self) -> np.ndarray:
        """Which tokens are labelled, bool, shape (T,)."""
        return self.labels != IGNORE_INDEX

    def key(self) -> bytes:
        """Bytes that are equal for two samples with the same tokens, scored alike."""
        return self.input_ids.tobytes() + b"|" + self.labels.tobytes()
