"""The real parsers of the commands, for the site's pages and for the tests of its commands."""

import argparse

from egup_trainer.cli.command import COMMANDS, load_command
from egup_trainer.cli.help import HelpAll

__all__ = ["COMMANDS", "flags_of", "load_command", "parser_of"]


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command of `egup`."""
    return load_command(command).parser()


def flags_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The parser's arguments, its help aside."""
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction | HelpAll)]
