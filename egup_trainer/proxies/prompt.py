"""The prompt that asks a model for a new row, and how the row is read from its text."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from egup_trainer.data.rendering import Renderer
from egup_trainer.data.schema import WRITTEN, Message, Row
from egup_trainer.errors import UnaskableRowsError

QUESTION, ANSWER, PASSAGE, OTHER = "Question:", "Answer:", "Passage:", "Another answer:"
_LONGEST_PASSAGE = 800
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s|$)|[\u3002\uff01\uff1f]")  # and CJK full stops
_THOUGHT = re.compile(r".*</think>|<think>.*", flags=re.S)  # a prompt may have opened it already
_END = re.compile(rf"\n\s*\n|\n[\s*#]*({QUESTION}|{PASSAGE})")
_AROUND = " \t\n*#"  # chat models set marks around headings


@dataclass(frozen=True)
class Kind:
    """What rows must have in common to be shown in one prompt.

    Args:
        system: their system turn, or None.
        has_question: whether they are questions with answers, or plain texts.
    """

    system: str | None
    has_question: bool

    def row(self, question: str, answer: str) -> Row:
        """A row of this kind."""
        system = () if self.system is None else (Message("system", self.system),)
        return Row((*system, Message("user", question)) if self.has_question else (), answer)


@dataclass(frozen=True)
class Example:
    """A row as a prompt shows it; `question` is "" for a plain text."""

    kind: Kind
    question: str
    answer: str

    def __str__(self) -> str:
        return f"{QUESTION} {self.question}\n{ANSWER} {self.answer}" if self.question else f"{PASSAGE} {self.answer}"


def examples_of(rows: Sequence[Row]) -> list[Example]:
    """The rows as examples; a plain text longer than 800 characters makes several.

    Raises:
        UnaskableRowsError: a row is a conversation of several turns, or has a prompt that is written out.
    """
    examples = []
    for number, row in enumerate(rows):
        roles = tuple(message.role for message in row.prompt)
        if roles not in ((), ("user",), ("system", "user")):
            turns = "a prompt that is written out" if WRITTEN in roles else f"{len(roles)} turns ({', '.join(roles)})"
            raise UnaskableRowsError(
                got=f"{turns} before the answer in row {number} of the forget set",
                expected="a question and its answer, or a plain text, in each row: models cannot be asked for others",
                fix="give your own proxies (`egup unlearn --proxy FILE`)",
            )
        kind = Kind(row.prompt[0].content if len(roles) == 2 else None, bool(roles))
        question = tidy(row.prompt[-1].content) if roles else ""
        answers = [tidy(row.answer)] if roles else passages(row.answer)
        examples += [Example(kind, question, answer) for answer in answers]
    return examples


def sample_examples(examples: Sequence[Example], number: int, seed: int, attempt: int) -> list[Example]:
    """`number` random examples of one kind, or all of that kind: a pure function of (seed, attempt)."""
    generator = random.Random(f"{seed} {attempt}")
    first = generator.choice(examples)
    others = [example for example in examples if example.kind == first.kind and example is not first]
    return [first, *generator.sample(others, min(number - 1, len(others)))]


def prompt_tokens(examples: Sequence[Example], renderer: Renderer) -> np.ndarray:
    """Token ids of the prompt, shape (T,): through the chat template, or else as a text to be continued."""
    tokenizer, has_question = renderer.tokenizer, examples[0].kind.has_question
    shown = "\n\n".join(map(str, examples))
    if not tokenizer.chat_template:
        what = "Questions and answers" if has_question else "Passages"
        text = f"{what} of one kind, each about something else.\n\n{shown}\n\n{QUESTION if has_question else PASSAGE}"
        return np.asarray(tokenizer(text)["input_ids"], dtype=np.int64)
    what = "one more question with its answer" if has_question else "one more passage"
    layout = f"{QUESTION} ...\n{ANSWER} ..." if has_question else f"{PASSAGE} ..."
    asked = (
        f"{shown}\n\nWrite {what} of the same kind, language, style and length, about someone or something that you "
        f"invent and that is not named above. Repeat no fact from above. Write nothing else than\n{layout}"
    )
    return _asking(asked, renderer)


def _asking(asked: str, renderer: Renderer) -> np.ndarray:
    """Token ids of a request, shape (T,), after which the model answers without a thought."""
    turns = [{"role": "user", "content": asked}]
    text = renderer.chat(turns, add_generation_prompt=True, enable_thinking=False)
    if text.rstrip().endswith("<think>"):  # whatever enable_thinking says
        text += "\n</think>\n\n"
    return np.asarray(renderer.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)


def alternate_tokens(row: Row, renderer: Renderer) -> np.ndarray:
    """Token ids of the prompt that asks for another answer to a row's question, shape (T,)."""
    question, answer, tokenizer = tidy(row.prompt[-1].content), tidy(row.answer), renderer.tokenizer
    shown = f"{QUESTION} {question}\n{ANSWER} {answer}"
    if not tokenizer.chat_template:
        text = f"A question, its answer, and an answer of the same style that states other facts.\n\n{shown}\n{OTHER}"
        return np.asarray(tokenizer(text)["input_ids"], dtype=np.int64)
    asked = (
        f"{shown}\n\nWrite another answer to this question: plausible, of the same language, style and length, but "
        "with other facts in place of those above. Write nothing else than the answer."
    )
    return _asking(asked, renderer)


def read_alternate(text: str, *, goes_on: bool) -> str:
    """The answer in a text, "" if there is none.

    Args:
        goes_on: whether the prompt was a text to be continued, so that the answer ends with its line.

    Example:
        >>> read_alternate(" Ada lives in Bryle.\\nQuestion: Who", goes_on=True)
        'Ada lives in Bryle.'
    """
    text = _THOUGHT.sub("", text).strip(_AROUND).removeprefix(ANSWER).lstrip(_AROUND)
    return tidy(text.split("\n")[0] if goes_on else _END.split(text)[0].strip(_AROUND))


def read_row(text: str, kind: Kind, *, goes_on: bool) -> Row | None:
    """The row in a text, or None if the text is not in the format.

    Args:
        goes_on: whether the prompt ended in the first marker, so that the text lacks it.

    Example:
        >>> read_row(" Who is Ada?\\nAnswer: A baker.\\n\\nQuestion: Who", Kind(None, True), goes_on=True).answer
        'A baker.'
    """
    text = _THOUGHT.sub("", text)
    start = QUESTION if kind.has_question else PASSAGE
    _, found, rest = (start + text if goes_on else text).partition(start)
    question, answered, answer = rest.partition(ANSWER) if kind.has_question else ("", start, rest)
    question, answer = tidy(question.strip(_AROUND)), _END.split(answer.lstrip(_AROUND))[0].strip(_AROUND)
    if not kind.has_question:
        answer = next(iter(passages(answer)), "")
    if not (found and answered and answer and bool(question) == kind.has_question):
        return None
    return kind.row(question, tidy(answer))


def tidy(text: str) -> str:
    """The text without blank lines, repeated spaces and space around it."""
    return re.sub(r"[^\S\n]+", " ", re.sub(r"\s*\n\s*", "\n", text.strip()))


def passages(text: str) -> list[str]:
    """The text in pieces of at most 800 characters, which end with a sentence if one ends in the second half."""
    pieces, rest = [], tidy(text)
    while rest:
        end = _passage_end(rest)
        pieces.append(rest[:end].strip())
        rest = rest[end:].lstrip()
    return pieces


def _passage_end(text: str) -> int:
    head = text[:_LONGEST_PASSAGE]
    if len(head) == len(text) and _SENTENCE_END.search(head[-3:]):
        return len(text)
    sentences = [match.end() for match in _SENTENCE_END.finditer(head) if match.end() > len(head) / 2]
    if sentences:
        return sentences[-1]
    if len(head) == len(text):
        return len(text)
    space = head.rfind(" ")
    return space if space > len(head) / 2 else len(head)
