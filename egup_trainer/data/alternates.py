"""What a forget row may be drawn to in place of its answer: a refusal, or an alternate answer from the data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import DataError

_STREAM = 3  # of the run's seed; the pairing of rows uses others


def read_refusals(path: str | Path) -> list[str]:
    """Refusals from a UTF-8 text file with one per line; empty lines are ignored.

    Raises:
        DataError: the file cannot be read, or contains none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # with or without a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            got=f"no refusals from {path} ({type(error).__name__})",
            expected="a UTF-8 text file with one refusal per line",
            fix="check --idk_answers",
        ) from error
    refusals = [line.strip() for line in lines if line.strip()]
    if not refusals:
        raise DataError(got=f"no refusal in {path}", expected="one per line", fix="check --idk_answers")
    return refusals


REFUSALS = tuple(read_refusals(Path(__file__).with_name("refusals.txt")))
"""The package's own refusals."""


def refusals_for(rows: Sequence[Row], answers: Sequence[str], seed: int) -> list[str]:
    """One refusal per row, chosen at random by (seed, row): the same at each visit, so that one scan sees all of them.

    Raises:
        DataError: a row has no prompt that could be refused.
    """
    return [_choose(answers, seed, number, row, "dpo") for number, row in enumerate(rows)]


def alternates_for(rows: Sequence[Row], seed: int) -> list[str]:
    """One alternate answer per row, chosen at random by (seed, row) from its `alternates`, or else its `perturbed`.

    Raises:
        DataError: a row has none, or no prompt.
    """
    return [_choose(row.alternates or row.perturbed, seed, number, row, "altpo") for number, row in enumerate(rows)]


def refuse_plain_text(row: Row, number: int, objective: str) -> None:
    """Raises `DataError` for a plain text, to which there is no other answer."""
    if not row.prompt:
        raise DataError(
            got=f"a plain text as row {number} of the forget set",
            expected=f"a question, to which objective={objective} knows another answer",
            fix="use another objective for plain texts",
        )


def _choose(answers: Sequence[str], seed: int, number: int, row: Row, objective: str) -> str:
    refuse_plain_text(row, number, objective)
    if not answers:
        raise DataError(
            got=f"no alternate answer in row {number} of the forget set",
            expected=f"one in every forget row, for objective={objective}",
            fix="give a column alternate_answer (or perturbed_answer), have the model write it "
            "(`egup proxy --kind alternate`), or use --objective dpo",
        )
    chosen = answers[int(np.random.default_rng([seed, _STREAM, number]).integers(len(answers)))]
    if row.has_turns or chosen[:1].isspace():
        return chosen
    return row.answer[: len(row.answer) - len(row.answer.lstrip())] + chosen  # after a prompt that is written out


def check_alternates(forget: RowDataset, objective: str) -> None:
    """Raises `DataError` if a forget row comes without the alternate answer that the objective reads."""
    for number, row in enumerate(forget.rows):
        if row.alternate is None:
            raise DataError(
                got=f"tokens without an alternate answer in row {number} of the forget set",
                expected=f"text, to which objective={objective} can add one",
                fix="give the rows as question + answer",
            )
