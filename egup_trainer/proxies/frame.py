"""What all prompts that are written out have in common, such as the markers around a question."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import WRITTEN, Message, Row


@dataclass(frozen=True)
class Frame:
    """The text around the questions of prompts that are written out. Without it, a row is a question with its answer.

    Args:
        before: what stands before each question.
        after: what stands after it.
        lead: white space before each answer.

    Example:
        >>> rows = [Row((Message(WRITTEN, f"Q: Who is {name}?\\nA:"),), f" {name}.") for name in ("Ada", "Bo")]
        >>> frame = Frame.of(rows)
        >>> frame, frame.take_off(rows[0]).prompt[0].content
        (Frame(before='Q: Who is ', after='\\nA:', lead=' '), 'Ada?')
    """

    before: str
    after: str
    lead: str

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Frame | None":
        """The longest frame of whole words that all the rows have; None if not all of them are written out."""
        if not rows or any([turn.role for turn in row.prompt] != [WRITTEN] for row in rows):
            return None
        prompts = [re.findall(r"\s+|\S+", row.prompt[0].content) for row in rows]
        before = _common_start(prompts)
        rests = [prompt[len(before) :] for prompt in prompts]
        after = _common_start([rest[::-1] for rest in rests])[::-1]
        if not all("".join(rest[: len(rest) - len(after)]).strip() for rest in rests):
            before, after = [], []
        leads = {row.answer[: len(row.answer) - len(row.answer.lstrip())] for row in rows}
        return cls("".join(before), "".join(after), leads.pop() if len(leads) == 1 else "")

    def template(self, template: Template) -> Template:
        """The template that writes questions as the prompts have them."""
        markers: dict[str, Any] = {"user": self.before, "assistant": self.after + self.lead}
        return replace(template, **markers, always=True, system_prompt=None)

    def take_off(self, row: Row) -> Row:
        """The row as a question with its answer; a row without the frame stays as it is."""
        text = row.prompt[0].content if row.prompt and not row.has_turns else ""
        question = text.removeprefix(self.before).removesuffix(self.after)
        if not question.strip() or self.before + question + self.after != text or not row.answer.startswith(self.lead):
            return row
        return replace(row, prompt=(Message("user", question),), answer=row.answer.removeprefix(self.lead))

    def put_on(self, row: Row) -> Row:
        """The row written out."""
        prompt = Message(WRITTEN, self.before + row.prompt[0].content + self.after)
        return replace(row, prompt=(prompt,), answer=self.lead + row.answer)


def _common_start(lists: Sequence[Sequence[str]]) -> list[str]:
    """The items that all lists begin with."""
    return [first for first, *_ in takewhile(lambda items: len(set(items)) == 1, zip(*lists, strict=False))]
