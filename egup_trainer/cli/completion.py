"""`egup completion SHELL`: a script that completes commands, flags, choices and files at the tab key."""

import argparse
from typing import Any

from egup_trainer.cli.common import OneLineParser


def main(argv: list[str]) -> None:
    """Prints the script."""
    import shtab

    parser = OneLineParser(
        prog="egup completion",
        description="Prints a completion script. bash: egup completion bash >> ~/.bash_completion; zsh: egup "
        "completion zsh > _egup in a folder of $fpath.",
    )
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="The shell.")
    shell = parser.parse_args(argv).shell
    print(shtab.complete(whole_parser(), shell))


def whole_parser() -> argparse.ArgumentParser:
    """One parser of `egup` with all commands and their flags."""
    import shtab

    from egup_trainer.cli.main import COMMANDS
    from egup_trainer.cli.parsers import parser_of

    whole = argparse.ArgumentParser(prog="egup", description="Unlearning for language models.")
    whole.add_argument("--version", action="store_true", help="Print the version.")
    commands = whole.add_subparsers(dest="command")
    for command, text in COMMANDS.items():
        parser = commands.add_parser(command, help=text)
        parser.add_argument("--config", help="YAML file with flags.").complete = shtab.FILE  # type: ignore[attr-defined]
        found = parser_of(command) if command != "completion" else None
        for action in _flags(found):
            parser._add_action(action)
    return whole


def _flags(parser: argparse.ArgumentParser | None) -> list[Any]:
    import shtab

    actions = [] if parser is None else [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]
    for action in actions:
        if action.choices is None and action.nargs != 0:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return actions
