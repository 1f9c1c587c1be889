"""Typed rows: what a user's data becomes before tokenization, and what tokenization makes of it."""

import hashlib
import unicodedata
from dataclasses import dataclass
from enum import Enum

import numpy as np

IGNORE_INDEX = -100
"""Label of a token that is not scored (prompt and padding), as in all of transformers."""

NO_SAMPLE = -1
"""Sample id of a filler row, which only completes a batch: it has no scored token and counts nowhere."""

MAX_LENGTH = 2048
"""Default maximum number of tokens per evaluated text. It is the same everywhere, so that results can be compared."""


class OnLongRow(str, Enum):
    """What to do with a row that has a prompt and is longer than `max_length`. A longer plain text is always split."""

    ERROR = "error"
    CUT = "cut"
    WINDOW = "window"


WRITTEN = "written"
"""Role of a prompt that is written out: the answer follows its last character, without template or markers."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, or a prompt that is written out.

    Args:
        role: "system", "user" or "assistant"; `WRITTEN` for a prompt that is written out.
        content: the text of the turn.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One sample: the turns before the answer, and the answer that is scored.

    A question/answer row has one user turn, a chat row has all turns but the last, a prompt/completion row has a prompt
    that is written out, and a plain-text row has none.

    Args:
        prompt: turns that the model is given. They are never scored.
        answer: the text that is scored and unlearned (or retained).
        paraphrase: another wording of the answer, if the data has one (used by `clreg_positives="paraphrase"`).
        perturbed: wrong answers in the wording of the paraphrase, for evaluation.
        alternatives: further correct answers, for evaluation only.
        alternates: other answers, wrong but of the same kind (used by `objective="altpo"`).
        paraphrased_questions: other wordings of the last user turn, for audits only.
        translated_questions: the last user turn in other languages, for audits only.
    """

    prompt: tuple[Message, ...]
    answer: str
    paraphrase: str | None = None
    perturbed: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    alternates: tuple[str, ...] = ()
    paraphrased_questions: tuple[str, ...] = ()
    translated_questions: tuple[str, ...] = ()

    @property
    def has_turns(self) -> bool:
        """Whether it has a prompt that a chat template or markers are to write."""
        return bool(self.prompt) and self.prompt[-1].role != WRITTEN

    def text_key(self) -> bytes:
        """A digest of prompt and answer that is the same whatever the white space, and however Unicode composes them.

        Example:
            >>> Row((), "caf\u00e9 noir").text_key() == Row((), " cafe\u0301  noir").text_key()
            True
        """
        texts = [each for turn in self.prompt for each in (turn.role, turn.content)]
        plain = [" ".join(unicodedata.normalize("NFC", text).split()) for text in (*texts, self.answer)]
        return _digest("\0".join(plain).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class RowSource:
    """The row that a sample was made from. A long row makes several samples.

    Args:
        number: index of the row in its source.
        key: digest of the tokens of the whole row.
        text_key: `Row.text_key` of the row; empty if its text is not known.
    """

    number: int
    key: bytes
    text_key: bytes = b""

    @classmethod
    def of(cls, number: int, row: "TokenizedRow", text_key: bytes = b"") -> "RowSource":
        """The source of a row that was not split yet."""
        return cls(number, _digest(row.key()), text_key)


NO_SOURCE = RowSource(NO_SAMPLE, b"")
"""The source of a sample that was not made from a row."""


@dataclass(frozen=True)
class TokenizedRow:
    """A sample as the model sees it.

    Args:
        input_ids: token ids, shape (T,), int32.
        labels: the same ids where a token is scored, `IGNORE_INDEX` elsewhere, shape (T,), int32.
        truncated: whether the row was cut to the maximum length.
        is_closed: whether its last token closes the answer: an end of the turn or of the sequence, which is scored.
        paraphrase: the same prompt with the paraphrased answer, if the row had one.
        alternate: the same prompt with the answer that the objective prefers to the row's own, if there is one.
        source: the row that the sample was made from; `NO_SOURCE` for a filler.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    truncated: bool = False
    is_closed: bool = False
    paraphrase: "TokenizedRow | None" = None
    alternate: "TokenizedRow | None" = None
    source: RowSource = NO_SOURCE

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def is_scored(self) -> np.ndarray:
        """Which tokens are labelled, bool, shape (T,)."""
        return self.labels != IGNORE_INDEX

    @property
    def prompt(self) -> np.ndarray:
        """The tokens before the answer, (n,); at most a start of sequence for a plain text, scored from its start.

        Example:
            >>> TokenizedRow(np.array([5, 6, 7]), np.array([IGNORE_INDEX, 6, 7])).prompt.tolist()
            [5]
        """
        return self.input_ids[: int(self.is_scored.argmax())]

    def after(self, example: "TokenizedRow") -> "TokenizedRow":
        """The tokens of another row and of this one, of which those are scored that are scored in this one alone."""
        input_ids = np.concatenate([example.input_ids, self.input_ids])
        labels = np.concatenate([np.full_like(example.labels, IGNORE_INDEX), self.labels])
        labels[len(example)] = IGNORE_INDEX  # alone, nothing predicts the first token of a plain text
        return TokenizedRow(input_ids, labels, is_closed=self.is_closed, source=self.source)

    def key(self) -> bytes:
        """Bytes that are equal for two samples with the same tokens and the same scored positions."""
        return self.input_ids.tobytes() + b"|" + self.labels.tobytes()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
