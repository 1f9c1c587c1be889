"""The console script `egup`. Nothing heavy is imported before a command is known."""

import sys
from importlib import import_module

from egup_trainer import __version__
from egup_trainer.errors import EgupError, did_you_mean

COMMANDS = {
    "unlearn": "make a model forget rows and keep others",
    "plan": "say what a run will take in memory and time, before it is started",
    "proxy": "have a model write rows of the forget rows' kind that it never saw",
    "evaluate": "measure what a model still says of rows, by every metric of a suite",
    "audit": "try to bring forgotten rows back, by relearning, quantisation, prompts, sampling, probes",
    "verify": "measure a saved model again, and say whether it gives the numbers of its run",
    "ledger": "show the requests to forget that a model has been through",
    "compare": "put results side by side in a page that anyone can open",
    "inspect": "show how rows are tokenized and what of them is scored",
    "env": "print versions and machine, for a bug report",
    "completion": "print a script that completes commands and flags in a shell",
    "demo": "see it work on invented people, with no network and no download",
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, a command's own, or 2 for an error that one line on stderr explains."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        print(f"egup_trainer {__version__}")
        return 0
    command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS, "see `egup --help`")
        return _fail(f"got the unknown command {command}; expected one of {', '.join(COMMANDS)}; {hint}")
    try:
        return import_module(f"egup_trainer.cli.{command}").main(rest) or 0
    except EgupError as error:
        return _fail(str(error), command)
    except KeyboardInterrupt:
        print(f"egup {command}: interrupted", file=sys.stderr)
        return 130


def _usage() -> str:
    lines = [f"  {name:<12}{text}" for name, text in COMMANDS.items()]
    head = ["usage: egup COMMAND [flags]", "", "Unlearning for language models.", "", "commands:"]
    return "\n".join([*head, *lines, "", "`egup COMMAND --help` lists a command's flags."])


def _fail(message: str, command: str = "") -> int:
    one_line = " ".join(message.split())
    print(f"egup{' ' + command if command else ''}: error: {one_line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
