"""Row -> text, through the tokenizer's chat template or through plain markers, and where in the text the answer is.

A chat template comes with a model and is a program, so it is rendered in a process of its own: one that never ends, or
fills the memory, is stopped. Nothing inside this process could stop it: `"x" * 10**10` is a single call.
"""

import json
import os
import signal
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from string import ascii_letters
from typing import Any

from egup_trainer.data.schema import WRITTEN, Message, Row
from egup_trainer.errors import ConfigError, LostAnswerError, ModelError

MAX_SECONDS, MAX_BYTES = 10, 2**30
"""Limits of one rendering: seconds of computing, and bytes of memory."""
MAX_EXTRA_CHARACTERS = 1_000_000
"""How many more characters a rendered text may have than ten times its turns."""
_PATIENCE = 60.0
"""Seconds to wait for a process that does not even compute, such as on a suspended machine."""

_SENTINEL = "EgupTrainerAnswerPlace"
USE_MARKERS = "write rows with plain markers instead (--user_marker, --assistant_marker)"
WRITE_OUT = "write that row out as the model reads it, as prompt and completion (docs/data.md shows how)"
Turns = list[dict[str, Any]]
RESERVED = frozenset(
    (
        *("conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        *("tokenizer_kwargs", "sanitize_control_tokens"),
    )
)
"""Arguments of `apply_chat_template` that are not for the template, or that this module sets."""


def today() -> str:
    """Today's date, as YYYY-MM-DD."""
    return date.today().isoformat()


@dataclass(frozen=True)
class Template:
    """How a prompt is written: markers for a tokenizer without a chat template, and what one with it is given.

    Args:
        user: marker before a user turn.
        assistant: marker before an assistant turn, including the scored answer.
        always: use the markers even if the tokenizer has a chat template. A prompt that is written out gets neither.
        date: the day, as YYYY-MM-DD, that a chat template writes where it asks for today's date. A model gives other
            numbers on another day, so it stays the day on which the template was made.
        closed: whether an end-of-sequence token is appended to an answer that follows the markers. A plain text never
            gets one: it continues where the row stops.
        thinks: whether the answer follows the chat template's prompt for generation with `enable_thinking`, where a
            model that thinks would begin to do so, instead of the block that the template writes before an answer.
        system_prompt: text of a system turn that is put before the turns of each prompt; "" or None for none. A row
            that has a system turn keeps its own. A plain text has no turns, and gets none.
        kwargs: further variables of the chat template by name, such as `{"enable_thinking": False}`.

    Raises:
        ConfigError: `date` is not a date, or `kwargs` has a name that `apply_chat_template` keeps for itself.

    Example:
        >>> Template().render([Message("user", "Who?")])
        'Question: Who?\\nAnswer: '
    """

    user: str = "Question: "
    assistant: str = "\nAnswer: "
    always: bool = False
    date: str = field(default_factory=today)
    closed: bool = True
    thinks: bool = False
    system_prompt: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_date(self.date)
        check_template_kwargs(self.kwargs)

    @classmethod
    def marked(cls, user: str | None, assistant: str | None, date: str | None) -> "Template":
        """The template with the markers that were given; if there are any, they are used instead of a chat template."""
        given: dict[str, Any] = {
            name: value for name, value in (("user", user), ("assistant", assistant)) if value is not None
        }
        return cls(**given, always=bool(given), date=date or today())

    def with_system_turn(self, row: Row) -> Row:
        """The row with the system prompt as its first turn, if there is one and the row has turns, but none of it."""
        if not self.system_prompt or not row.has_turns or any(turn.role == "system" for turn in row.prompt):
            return row
        return replace(row, prompt=(Message("system", self.system_prompt), *row.prompt))

    def render(self, prompt: Sequence[Message]) -> str:
        """The prompt's text, up to and including the marker before the answer ("" for a plain-text row)."""
        text = ""
        for message in prompt:
            marker = {"user": self.user, "assistant": self.assistant}.get(message.role, "")
            text += marker + message.content + ("\n" if message.role in ("system", "assistant") else "")
        return text + self.assistant if prompt and prompt[-1].role != WRITTEN else text


def check_date(value: str | None) -> None:
    """Raises `ConfigError` if the value of template_date is given and is not a date as YYYY-MM-DD."""
    try:
        valid = value is None or date.fromisoformat(value).isoformat() == value
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            got=f"template_date={value}", expected="a date as YYYY-MM-DD", fix=f"set it as in template_date={today()}"
        )


def check_template_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Raises `ConfigError` if a keyword argument for chat templates has a name that is taken."""
    taken = sorted(RESERVED & kwargs.keys())
    if taken:
        raise ConfigError(
            got=f"template_kwargs with {taken[0]}, an argument of apply_chat_template itself",
            expected="names of variables that the chat template reads, such as enable_thinking",
            fix=f"leave out {taken[0]}",
        )


def writes_date(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template asks for today's date."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None))


def choose_date(tokenizer: Any, given: str | None, recorded: Iterable[str | None] = ()) -> str | None:
    """The date that the chat template is to write, the same on every process; None if the template writes no date.

    Args:
        given: what the user asked for (`template_date`).
        recorded: dates of earlier results and runs, of which the first is used if none was given; today's is the last
            resort.

    Raises:
        ConfigError: a date was given, and the chat template does not write one.
    """
    import torch.distributed

    if not writes_date(tokenizer):
        if given is not None:
            raise ConfigError(
                got=f"template_date={given} for a tokenizer whose chat template writes no date",
                expected="a template that asks for today's date",
                fix="leave out template_date",
            )
        return None
    dates = [next((date for date in (given, *recorded) if date is not None), None) or today()]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(dates)  # clocks may differ
    return dates[0]


@cache
def _date_macro(date: str) -> str:
    """A macro that replaces `strftime_now`, the function that transformers gives to chat templates.

    It replaces each directive of a format, such as %d, by its text at the start of that day. A macro is needed because
    transformers passes only plain data, and no functions, to a chat template.
    """
    day = datetime.fromisoformat(date)
    directives = [f"%{flag}{letter}" for flag in ("", *"-_0^#") for letter in ascii_letters]
    texts = {each: text for each in directives if (text := day.strftime(each)) != each}
    pairs = json.dumps([("%%", "\0"), *texts.items(), ("\0", "%")])
    return (
        "{% macro strftime_now(format) %}{% set all = namespace(text=format) %}"
        f"{{% for old, new in {pairs} %}}{{% set all.text = all.text.replace(old, new) %}}{{% endfor %}}"
        "{{ all.text }}{% endmacro %}\n"  # transformers drops a line break after a block
    )


@dataclass(frozen=True)
class RenderedRow:
    """The text of a row, and the span of its answer.

    Args:
        text: prompt, answer and whatever the template writes around them.
        start, end: the answer is `text[start:end]`.
    """

    text: str
    start: int
    end: int
    is_chat: bool


class Renderer:
    """Writes rows and conversations as text. Chat templates run in one child process, which starts with the first.

    Some templates, of models that read images, write contents only if these are lists of parts: they are given such.

    It is a context manager: the process ends with the block. The process is a fork, so it has the tokenizer as it was
    at the first rendering.

    Args:
        tokenizer: has the chat template, or none.
        template: markers for a tokenizer without a chat template, and the date.
    """

    def __init__(self, tokenizer: Any, template: Template | None = None):
        self.tokenizer, self.template = tokenizer, template or Template()
        self._pipe: Connection | None = None
        self._child = 0
        self._takes_parts: bool | None = None  # known after the first rendering

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def row(self, row: Row) -> RenderedRow:
        """The row as text.

        Raises:
            ModelError: the chat template does not keep the answer as it is, drops the system prompt, or goes beyond its
                limits.
            jinja2.TemplateError: the chat template refuses the row.
        """
        if row.has_turns and self.tokenizer.chat_template and not self.template.always:
            asked = self.template.with_system_turn(row)
            return self._chat_row(row) if asked is row else self._with_system_turn(asked, row)
        row = self.template.with_system_turn(row)
        prompt = self.template.render(row.prompt)
        return RenderedRow(prompt + row.answer, len(prompt), len(prompt) + len(row.answer), is_chat=False)

    def _with_system_turn(self, asked: Row, row: Row) -> RenderedRow:
        """A row that is given a system turn, which the template must write."""
        from jinja2 import TemplateError

        what = "leaves out"
        try:
            rendered = self._chat_row(asked)
            if str(self.template.system_prompt).strip() in rendered.text:
                return rendered
        except TemplateError:
            self._chat_row(row)  # raises the error if it is not the system turn that is refused
            what = "refuses"
        raise ModelError(
            got=f"system_prompt for a chat template that {what} system turns",
            expected="a template that writes them",
            fix="leave out --system_prompt, or put its text into the questions",
        )

    def _chat_row(self, row: Row) -> RenderedRow:
        """A second rendering with a sentinel as the answer shows what the template writes before and after an answer.

        Some templates write a block for thinking before it, some trim it, most write an end and a line break after it.
        """
        turns = [{"role": message.role, "content": message.content} for message in row.prompt]
        text = self.chat([*turns, {"role": "assistant", "content": row.answer}])
        sentinel = self.chat([*turns, {"role": "assistant", "content": _SENTINEL}])
        before, found, after = sentinel.rpartition(_SENTINEL)
        answer = row.answer.strip()
        for body in (text.removesuffix(after), text):  # some write no end after an answer that has its own
            start = len(before) if body[len(before) :].strip() == answer else body.rfind(answer)
            if found and start >= 0 and body[start:].strip() == answer:
                if self.template.thinks:
                    prompt = self.chat(turns, add_generation_prompt=True, enable_thinking=True)
                    text, start, body = prompt + text[start:], len(prompt), prompt + body[start:]
                return RenderedRow(text, start, len(body), is_chat=True)
        raise LostAnswerError(
            got="a chat template whose text does not hold the answer",
            expected="a template that writes the last assistant turn as it is",
            fix=f"{WRITE_OUT}; or repair the template",
        )

    def chat(self, turns: Turns, **options: Any) -> str:
        """What `tokenizer.apply_chat_template` makes of the turns, as text, on the template's date.

        Args:
            turns: of the conversation, with the system turn if there is one.
            options: of `apply_chat_template`; they go before the template's own `kwargs`.

        Raises:
            ModelError: the template takes too long or too much memory, or writes far more than the turns hold, or there
                are several and no default.
            jinja2.TemplateError: the template refuses the turns, or fails on them.
        """
        from jinja2 import TemplateError

        templates = self.tokenizer.chat_template
        if isinstance(templates, dict) and "default" not in templates:
            raise ModelError(
                got=f"a tokenizer with the chat templates {', '.join(templates)}, and none that is the default",
                expected="one chat template, or several of which one has the name default",
                fix=f"set tokenizer.chat_template to one of them and save the tokenizer, or {USE_MARKERS}",
            )
        options = {**self.template.kwargs, **options}
        if writes_date(self.tokenizer):
            dated = _date_macro(self.template.date) + self.tokenizer.get_chat_template()
            options = {"chat_template": dated, **options}
        if self._takes_parts is None:
            plain, parts = [{"role": "user", "content": _SENTINEL}], [{"role": "user", "content": _in_parts(_SENTINEL)}]
            self._takes_parts = not self._writes_sentinel(plain, options) and self._writes_sentinel(parts, options)
        if self._takes_parts:
            turns = [{**turn, "content": _in_parts(turn["content"])} for turn in turns]
        kind, text = self._render(turns, options)
        if kind == "error":
            raise TemplateError(text)
        return text

    def _writes_sentinel(self, turns: Turns, options: dict[str, Any]) -> bool:
        kind, text = self._render(turns, options)
        return kind == "text" and _SENTINEL in text

    def _render(self, turns: Turns, options: dict[str, Any]) -> tuple[str, str]:
        """Whether a text or an error was found, and the text or what the error says.

        Raises:
            ModelError: the template takes too long or too much memory, or writes far more than the turns hold.
        """
        # Without forks, as on Windows, only the length is limited.
        kind, text = (self._ask if hasattr(os, "fork") else self._answer)(turns, options)
        if kind == "limit":
            raise ModelError(
                got=f"a chat template that {text}",
                expected="one that writes the turns of a row, and little else",
                fix="repair the tokenizer's chat_template (in chat_template.jinja or tokenizer_config.json)",
            )
        return kind, text

    def _answer(self, turns: Turns, options: dict[str, Any]) -> tuple[str, str]:
        """ "text" and what the template wrote, "error" and its message, or "limit" and which limit it exceeded."""
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, **options)
        except MemoryError:
            raise
        except Exception as error:  # a template is a program, which can fail in every way
            return "error", f"{type(error).__name__}: {error}"
        if len(text) > MAX_EXTRA_CHARACTERS + 10 * sum(len(str(turn["content"])) for turn in turns):
            return "limit", f"writes {len(text):,} characters for one row"
        return "text", text

    def _ask(self, turns: Turns, options: dict[str, Any]) -> tuple[str, str]:
        """The child's answer."""
        if self._pipe is None:
            self._pipe = self._start()
        try:
            self._pipe.send((turns, options))
            if self._pipe.poll(_PATIENCE):
                return self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):  # the system ended it at its limit
            pass
        self._close()
        return "limit", f"does not end within {MAX_SECONDS} seconds of computing"

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        # The fork takes no lock of other threads, and the library tokenizers need not warn of it.
        was_set = "TOKENIZERS_PARALLELISM" in os.environ
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self._child = os.fork()
        finally:
            if not was_set:
                del os.environ["TOKENIZERS_PARALLELISM"]
        if self._child == 0:
            try:
                ours.close()
                self._serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        return ours

    def _close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)
            self._pipe = None

    def _serve(self, pipe: Connection) -> None:
        """The child's loop: renders within its limits until the parent is gone."""
        import resource

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):  # the system may not say how much memory is in use, or may set no limit
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MAX_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
        while True:
            try:
                turns, options = pipe.recv()
            except EOFError:
                return
            used = resource.getrusage(resource.RUSAGE_SELF)
            seconds = int(used.ru_utime + used.ru_stime) + 1 + MAX_SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            try:
                answer = self._answer(turns, options)
            except MemoryError:
                answer = "limit", f"takes more than {MAX_BYTES / 1e9:.1f} GB of memory"
            pipe.send(answer)


def _in_parts(text: str) -> list[dict[str, str]]:
    """A content as one part of the type text."""
    return [{"type": "text", "text": text}]
