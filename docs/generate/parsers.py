"""The real parsers of the commands, for the site's pages and for the tests of its commands."""

import argparse

from egup_trainer.cli.main import COMMANDS
from egup_trainer.cli.parsers import parser_of

__all__ = ["COMMANDS", "flags_of", "parser_of"]


def flags_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The parser's arguments, its help aside."""
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
