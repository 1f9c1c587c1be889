"""The real parsers of the commands, for the site's pages and for the tests of its commands."""

import argparse
from importlib import import_module
from unittest.mock import patch

from egup_trainer.cli.main import COMMANDS


class _Found(BaseException):
    """Carries a parser out of a command; no `except Exception` on the way stops it."""


def parser_of(command: str) -> argparse.ArgumentParser | None:
    """The parser that a command of `egup` makes, caught as it is about to print its help; None if it makes none.

    Raises:
        KeyError: there is no such command.
    """
    COMMANDS[command]

    def catch(self: argparse.ArgumentParser, file: object = None) -> None:
        raise _Found(self)

    with patch.object(argparse.ArgumentParser, "print_help", catch):
        try:
            import_module(f"egup_trainer.cli.{command}").main(["--help"])
        except _Found as found:
            return found.args[0]
    return None


def flags_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The parser's arguments, its help aside."""
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
