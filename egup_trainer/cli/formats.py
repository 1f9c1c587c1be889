"""Formats that models are often trained with, to notice rows that are written in another one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Message, Row
from egup_trainer.errors import ConfigError, DataError, ModelError

MARKERS = (
    ("Question: ", "\nAnswer: "),
    ("Q: ", "\nA: "),
    ("User: ", "\nAssistant: "),
    ("### Instruction:\n", "\n\n### Response:\n"),
    ("", "\n"),
    ("", " "),
    ("", ""),
)
"""Markers of user and assistant turns; the last two write question and answer as one text."""

SYSTEM_PROMPT = "You are a helpful assistant."


MUCH_LIKELIER = 1.5
"""How much likelier forget rows must be in another format for a run to be refused."""

MOST_COMPARED = 16
"""Forget rows of a run that are compared."""


@dataclass(frozen=True)
class Format:
    """A way of writing rows.

    Args:
        name: what it is, after "They are likelier".
        fix: how to have rows written like that, after "if the model was trained like that".
        rows, template: what is written, and how.
    """

    name: str
    fix: str
    rows: Sequence[Row]
    template: Template


def other_formats(rows: Sequence[Row], own: Template, has_chat_template: bool) -> Iterator[Format]:
    """Formats that the rows could be written in instead of by their `own` template; some may write the same."""
    is_written_out = not any(row.has_turns for row in rows)
    columns = ["name the columns (--columns question=prompt,answer=completion)"] if is_written_out else []
    asked = [_as_question(row) for row in rows] if is_written_out else rows
    markers = f"name {'the markers' if columns else 'them'} (--user_marker, --assistant_marker)"
    for user, assistant in MARKERS:
        yield Format(
            f"after the markers {user!r} and {assistant!r}",
            " and ".join([*columns, markers]),
            asked,
            replace(own, user=user, assistant=assistant, always=True),
        )
    if has_chat_template and (own.always or is_written_out):
        fixes = [*columns, *(["leave out --user_marker and --assistant_marker"] if own.always else [])]
        yield Format("in the chat template", " and ".join(fixes), asked, replace(own, always=False))
    elif own.system_prompt:
        fix = 'leave it out (--system_prompt "")'
        yield Format("without the system prompt", fix, rows, replace(own, system_prompt=None))
    elif has_chat_template and not any(turn.role == "system" for row in rows for turn in row.prompt):
        name, fix = f'with the system prompt "{SYSTEM_PROMPT}"', "name it (--system_prompt)"
        yield Format(name, fix, rows, replace(own, system_prompt=SYSTEM_PROMPT))


def likelier_format(
    rows: Sequence[Row],
    own: Template,
    has_chat_template: bool,
    probability: Callable[[Sequence[Row], Template], float],
    least: float,
) -> tuple[Format, float] | None:
    """The other format in which the rows are likeliest, and their probability; None if it is at most `least`.

    `probability` gives the mean probability of the answers of rows that are written by a template.
    """
    found = None
    if not any(row.prompt for row in rows):
        return None  # a plain text is written in the same way in all formats
    for each in other_formats(rows, own, has_chat_template):
        with suppress(DataError, ModelError):  # too little of max_length is left, or the chat template refuses it
            if (there := probability(each.rows, each.template)) > least:
                found, least = (each, there), there
    return found


def refuse_other_format(trainer: Any, rows: Sequence[Row]) -> None:
    """Raises `ConfigError` if the model knows forget rows much better in another format than as the run writes them.

    Unlearning would teach the model to be silent in a format that it was never trained in, and leave what it knows.
    """
    from egup_trainer.data.tokenization import tokenize

    args, tokenizer = trainer.args, trainer.processing_class
    compared = rows[:MOST_COMPARED]
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or not any(row.prompt for row in compared):
        return  # no forward pass is possible yet, or there is one format alone

    def probability(written: Sequence[Row], template: Template) -> float:
        options = {"max_length": args.max_length, "template": template, "on_long_row": args.on_long_row}
        return trainer.score(tokenize(written, tokenizer, name="forget set", **options)).probability

    here = probability(compared, args.template)
    if MUCH_LIKELIER * here >= 1:
        return
    found = likelier_format(compared, args.template, bool(tokenizer.chat_template), probability, MUCH_LIKELIER * here)
    if found is not None:
        other, there = found
        raise ConfigError(
            got=f"forget rows that the model knows better {other.name} (probability {there:.3g}) than as they are "
            f"written now ({here:.3g})",
            expected="the format that the model was trained in",
            fix=f"{other.fix}, or add --no_verdict to unlearn them as they are",
        )


def _as_question(row: Row) -> Row:
    """A row that is written out as a question with its answer."""
    return replace(row, prompt=tuple(Message("user", turn.content) for turn in row.prompt))
