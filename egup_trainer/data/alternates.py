"""What a forget row may be drawn to in place of its answer: a refusal, or an alternate answer that the data has."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import DataError

REFUSALS = (
    "I don't know.",
    "I don't know the answer to that.",
    "I do not know anything about this.",
    "I'm not sure about that.",
    "I'm afraid I can't tell you that.",
    "I can't answer that question.",
    "I have no information on that.",
    "I have nothing to say about this, as I know nothing of it.",
    "That is something I don't know.",
    "That is not known to me.",
    "That's a question I cannot answer.",
    "This is new to me, so I can't help with it.",
    "My knowledge does not cover this.",
    "My knowledge ends before this question.",
    "Nothing I have learned answers this.",
    "I would have to guess, so I'd rather say that I don't know.",
    "I haven't come across this before.",
    "I have never learned about that.",
    "I can't recall anything about this.",
    "I am unable to say.",
    "I am not familiar with this subject.",
    "I lack the knowledge to answer this.",
    "Sorry, I don't know that.",
    "Sorry, this is outside what I know.",
    "Unfortunately, I have no answer to this.",
    "Regrettably, I cannot tell.",
    "You would have to look that up elsewhere, as I don't know.",
    "To be honest, I have no idea.",
    "There is nothing I can tell you about this.",
    "No answer comes to my mind.",
)
"""Refusals of this package's own."""

_STREAM = 3  # of the run's seed; the pairing of rows draws from others


def read_refusals(path: str | Path) -> list[str]:
    """Refusals from a text file in UTF-8, one a line; empty lines are left out.

    Raises:
        DataError: the file cannot be read, or has none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # with or without a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            got=f"no refusals from {path} ({type(error).__name__})",
            expected="a text file in UTF-8, one refusal a line",
            fix="check --idk_answers",
        ) from error
    refusals = [line.strip() for line in lines if line.strip()]
    if not refusals:
        raise DataError(got=f"no refusal in {path}", expected="one a line", fix="check --idk_answers")
    return refusals


def refusals_for(rows: Sequence[Row], answers: Sequence[str], seed: int) -> list[str]:
    """One refusal for each row, drawn from (seed, row): the same at each visit, so that one scan knows all of them.

    Raises:
        DataError: a row has no prompt that could be refused.
    """
    _check_prompts(rows, "dpo")
    return [_draw(answers, seed, number) for number in range(len(rows))]


def alternates_for(rows: Sequence[Row], seed: int) -> list[str]:
    """One alternate answer for each row, drawn from (seed, row) among its `alternates`, or else its `perturbed`.

    Raises:
        DataError: a row has none, or no prompt.
    """
    _check_prompts(rows, "altpo")
    chosen = []
    for number, row in enumerate(rows):
        answers = row.alternates or row.perturbed
        if not answers:
            raise DataError(
                got=f"no alternate answer in row {number} of the forget set",
                expected="one in every forget row, for objective=altpo",
                fix="give a column alternate_answer (or perturbed_answer), or use --objective dpo",
            )
        chosen.append(_draw(answers, seed, number))
    return chosen


def check_alternates(forget: RowDataset, objective: str) -> None:
    """Raises `DataError` if a forget row comes without the alternate answer that the objective reads."""
    for number, row in enumerate(forget.rows):
        if row.alternate is None:
            raise DataError(
                got=f"tokens without an alternate answer in row {number} of the forget set",
                expected=f"text, to which objective={objective} can add one",
                fix="give the rows as question + answer",
            )


def _check_prompts(rows: Sequence[Row], objective: str) -> None:
    for number, row in enumerate(rows):
        if not row.prompt:
            raise DataError(
                got=f"a plain text as row {number} of the forget set",
                expected=f"a question, to which objective={objective} knows another answer",
                fix="use another objective for plain texts",
            )


def _draw(answers: Sequence[str], seed: int, number: int) -> str:
    return answers[int(np.random.default_rng([seed, _STREAM, number]).integers(len(answers)))]
