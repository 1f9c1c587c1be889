"""The parsers of the commands, for shell completion, for the site's page of commands, and for tests of the docs."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

from egup_trainer.cli.common import OneLineParser
from egup_trainer.cli.main import COMMANDS


class _Found(BaseException):
    """Carries a parser out of a command; no `except Exception` on the way stops it."""


def parser_of(command: str) -> argparse.ArgumentParser | None:
    """The parser that a command of `egup` makes, caught as it is about to print its help; None if it makes none.

    Raises:
        KeyError: there is no such command.
    """
    COMMANDS[command]
    with _caught_at_help():
        try:
            import_module(f"egup_trainer.cli.{command}").main(["--help"])
        except _Found as found:
            return found.args[0]
    return None


@contextmanager
def _caught_at_help() -> Iterator[None]:
    def catch(self: argparse.ArgumentParser, file: object = None) -> NoReturn:
        raise _Found(self)

    kept = OneLineParser.print_help
    OneLineParser.print_help = catch  # type: ignore[method-assign]
    try:
        yield
    finally:
        OneLineParser.print_help = kept  # type: ignore[method-assign]
