"""The console script `egup`. Libraries are imported only once a command is known.

Whatever goes wrong in a command is reported in one line on stderr. With `EGUP_TRACEBACK=1` in the environment the whole
traceback is shown instead.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from egup_trainer import __version__
from egup_trainer.cli.command import COMMANDS, load_command
from egup_trainer.cli.terminal import printable
from egup_trainer.errors import EgupError, did_you_mean, first_line

TRACEBACK = "EGUP_TRACEBACK"
"""Environment variable that shows tracebacks."""
_PATIENCE = 2.0
"""Seconds that other processes wait before they report an error, which most often is that of the first process, too."""


def main(argv: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0 or a command's own; 2 for an error that one line on stderr explains; 1 for an unexpected error,
        with one line that says how to see more; 130 when interrupted; 141 when the reader of the output has gone.
    """
    argv = sys.argv[1:] if argv is None else argv
    code = 0
    try:
        try:
            with _no_errors_of_destructors():
                code = _run(argv)
        finally:
            sys.stdout.flush()  # so that a reader that has gone is noticed here, and not when Python exits
    except BrokenPipeError:
        return _leave_a_closed_pipe()
    except OSError as error:  # such as a full disk; the other files that the command wrote are complete
        _leave_a_closed_pipe()
        what = f"Got standard output that cannot be written ({error.strerror})"
        return code or _fail(f"{what}, but expected enough space, and permission to write. Send it elsewhere.")
    return code


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        print(f"egup_trainer {__version__}")
        return 0
    command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS, "see `egup --help`")
        known = ", ".join(COMMANDS)
        return _fail(str(EgupError(got=f"the unknown command {command}", expected=f"one of {known}", fix=hint)))
    try:
        return load_command(command).main(rest)
    except KeyboardInterrupt:
        print(f"egup {command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) or os.environ.get(TRACEBACK):
            raise
        if isinstance(error, EgupError):
            return _fail(str(error), command)
        return _fail(_unexpected(error), command, code=1)


def _unexpected(error: Exception) -> str:
    """The message for an error that no check has foreseen."""
    kind, says = type(error).__name__, first_line(error)
    if "OutOfMemory" in kind or isinstance(error, MemoryError):
        fix = "Lower the batch size, add --gradient_checkpointing, and see `egup plan`."
        return f"Got {kind} ({says}), but expected enough memory. {fix}"
    return f"Got an unexpected {kind} ({says}). Set {TRACEBACK}=1 to see where it comes from."


@contextmanager
def _no_errors_of_destructors() -> Iterator[None]:
    """Keeps Python from printing errors in the `__del__` of libraries' half-made objects below our one line."""
    hook = sys.unraisablehook
    if not os.environ.get(TRACEBACK):
        sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _leave_a_closed_pipe() -> int:
    """Ends as programs do when the reader of their output, such as `head`, has gone: without a message."""
    with suppress(OSError, ValueError, AttributeError):  # a stream in memory has no file descriptor
        # Python flushes stdout once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _usage() -> str:
    lines = [f"  {name:<12}{load_command(name).summary}" for name in COMMANDS]
    head = ["usage: egup COMMAND [flags]", "", "Unlearning for language models.", "", "commands:"]
    return "\n".join(
        [*head, *lines, "", "`egup COMMAND --help` lists a command's flags; if it says so, `--help_all` lists more."]
    )


def _fail(message: str, command: str = "", code: int = 2) -> int:
    rank = int(os.environ.get("RANK") or 0)
    if rank:
        # The launcher ends this process as soon as the first one has ended, so that the same error is printed once.
        time.sleep(_PATIENCE)
    one_line = printable(" ".join(message.split()))
    process = f" (process {rank})" if rank else ""
    print(f"egup{' ' + command if command else ''}{process}: error: {one_line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
