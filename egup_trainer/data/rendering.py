"""Chat templates, rendered in a process of their own: one that never ends, or fills memory, is stopped.

A template comes with a model and is a program. Nothing inside this process can stop it: `"x" * 10**10` is one call.
"""

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from egup_trainer.errors import ModelError

MOST_SECONDS, MOST_BYTES = 10, 2**30
"""Of computing, and of memory, that one rendering may take."""
MORE_CHARACTERS = 1_000_000
"""By how much a rendered text may be longer than ten times its turns."""
_PATIENCE = 60.0
"""Seconds after which a process that does not even compute is given up, such as on a machine that stands still."""

Turns = list[dict[str, str]]


@contextmanager
def rendering(tokenizer: Any) -> Iterator["_Renderer"]:
    """Keeps one process for all that `render_chat` renders inside with this tokenizer; it starts with the first."""
    current = _CURRENT.get()
    if current is not None and current.tokenizer is tokenizer:
        yield current
        return
    renderer = _Renderer(tokenizer)
    token = _CURRENT.set(renderer)
    try:
        yield renderer
    finally:
        _CURRENT.reset(token)
        renderer.close()


def render_chat(tokenizer: Any, turns: Turns, **options: Any) -> str:
    """What `tokenizer.apply_chat_template` makes of the turns, as text.

    Args:
        tokenizer: has the template, if `options` do not name another one.
        turns: of the conversation.
        options: of `apply_chat_template`.

    Raises:
        ModelError: the template takes too long or too much memory, or writes far more than the turns hold.
        jinja2.TemplateError: the template refuses the turns, or fails on them.
    """
    with rendering(tokenizer) as renderer:
        return renderer.render(turns, options)


class _Renderer:
    """A process that renders what it is sent, within limits. It is a fork, so it has the tokenizer as it is now."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._pipe: Connection | None = None
        self._child = 0

    def render(self, turns: Turns, options: dict[str, Any]) -> str:
        from jinja2 import TemplateError

        # Without forks, as on Windows, the length alone has a limit.
        ask = self._ask if hasattr(os, "fork") else _answer
        kind, text = ask(self.tokenizer, turns, options)
        if kind == "error":
            raise TemplateError(text)
        if kind == "limit":
            raise ModelError(
                got=f"a chat template that {text}",
                expected="one that writes the turns of a row, and little else",
                fix="repair the tokenizer's chat_template (in chat_template.jinja or tokenizer_config.json)",
            )
        return text

    def close(self) -> None:
        """Ends the process."""
        if self._pipe is not None:
            self._pipe.close()
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)
            self._pipe = None

    def _ask(self, _: Any, turns: Turns, options: dict[str, Any]) -> tuple[str, str]:
        pipe = self._pipe or self._start()
        try:
            pipe.send((turns, options))
            if pipe.poll(_PATIENCE):
                return pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):  # the system ended it at its limit
            pass
        self.close()
        return "limit", f"does not end within {MOST_SECONDS} seconds of computing"

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        with warnings.catch_warnings(), _quiet_tokenizers():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the fork takes none of their locks
            self._child = os.fork()
        if self._child == 0:
            try:
                ours.close()
                _serve(theirs, self.tokenizer)
            finally:
                os._exit(0)
        theirs.close()
        self._pipe = ours
        return ours


_CURRENT: ContextVar[_Renderer | None] = ContextVar("renderer", default=None)


def _serve(pipe: Connection, tokenizer: Any) -> None:
    """Renders until the other side is gone."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):  # where the system does not tell how much there is already, or sets no limit
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    while True:
        try:
            turns, options = pipe.recv()
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + MOST_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        try:
            answer = _answer(tokenizer, turns, options)
        except MemoryError:
            answer = "limit", f"takes more than {MOST_BYTES / 1e9:.1f} GB of memory"
        pipe.send(answer)


def _answer(tokenizer: Any, turns: Turns, options: dict[str, Any]) -> tuple[str, str]:
    """ "text" and what the template wrote, "error" and what it said, or "limit" and how it went beyond one."""
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # a template is a program, which can fail in every way
        return "error", f"{type(error).__name__}: {error}"
    if len(text) > MORE_CHARACTERS + 10 * sum(len(turn["content"]) for turn in turns):
        return "limit", f"writes {len(text):,} characters for one row"
    return "text", text


@contextmanager
def _quiet_tokenizers() -> Iterator[None]:
    """Has the library tokenizers print no warning of a fork that was not announced to it."""
    name = "TOKENIZERS_PARALLELISM"
    if name in os.environ:
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        del os.environ[name]
