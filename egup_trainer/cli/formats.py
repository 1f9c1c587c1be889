"""Formats that models are often trained with, for `egup inspect` to compare with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Message, Row

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
    """Formats that the rows could be written in instead; some may write the same.

    Args:
        rows: the rows.
        own: how they are written.
        has_chat_template: whether the tokenizer has a chat template.
    """
    is_written_out = not any(row.has_turns for row in rows)
    columns = ["name the columns (--columns question=prompt,answer=completion)"] if is_written_out else []
    asked = [_as_question(row) for row in rows] if is_written_out else rows
    for user, assistant in MARKERS:
        yield Format(
            f"after the markers {user!r} and {assistant!r}",
            " and ".join(
                [*columns, f"name {'the markers' if columns else 'them'} (--user_marker, --assistant_marker)"]
            ),
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


def _as_question(row: Row) -> Row:
    """A row that is written out as a question with its answer."""
    return replace(row, prompt=tuple(Message("user", turn.content) for turn in row.prompt))
