"""What `egup COMMAND --help` shows: the flags that people need on one screen; `--help_all` shows every flag.

Flags stand in titled groups. The dataclass that declares a flag names its group in `help_title`.
"""

import argparse
import re
from collections.abc import Collection
from typing import Any

from egup_trainer.options import owner_of

_TITLES_OF_LIBRARIES = {"ModelConfig": "Model and LoRA", "TrainingArguments": "Trainer"}
_LAST = _TITLES_OF_LIBRARIES["TrainingArguments"]
_METAVARS: dict[Any, str] = {int: "N", float: "X"}
_LONG = 140  # characters of a sentence
REQUIRED = " Required."
"""What ends the help text of a flag that must be set."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each flag by one name, that with underscores, and default values, except for flags that have none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        shown = super()._get_help_string(action)
        is_choice = isinstance(action.default, str) and hasattr(action.default, "value")
        return shown.replace("%(default)s", action.default.value) if shown and is_choice else shown

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = [name for name in action.option_strings if "-" not in name.removeprefix("--")[1:]]
        if action.const is True:  # a switch, which may have a value but needs none
            return ", ".join([*names, f"--no_{action.dest}"] if action.default is True else names)
        names = names if action.dest == "help" else names[:1]
        arguments = "" if action.nargs == 0 else self._format_args(action, metavar_of(action))
        return f"{', '.join(names)} {arguments}".rstrip()


class ShortHelpFormatter(HelpFormatter):
    """Shows the first sentence of each help text, of a long one what stands before its colon or semicolon."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        whole = super()._get_help_string(action)
        if whole is None:
            return None
        text, default, value = whole.partition(" (default: ")
        first = re.split(r"(?<=\.) (?=[A-Z])", text, maxsplit=1)[0]
        if len(first) > _LONG:
            first = re.split("[:;] ", first, maxsplit=1)[0].removesuffix(".") + "."
        return first + (REQUIRED if text.endswith(REQUIRED) else "") + default + value


class HelpAll(argparse.Action):
    """The flag `--help_all`: prints the help of every flag, and ends."""

    def __init__(self, option_strings: Any, dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        """Prints and ends."""
        print(help_text(parser), end="")
        parser.exit()


def metavar_of(action: argparse.Action) -> str:
    """What stands for the value of a flag: `N` or `X` for a number, else the last word of its name.

    Example:
        >>> metavar_of(argparse.Action(["--output_dir"], "output_dir"))
        'DIR'
    """
    return _METAVARS.get(action.type, action.dest.rpartition("_")[2].upper())


def help_text(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> str:
    """The help: of the flags with these names, the first sentence of each text; or of all flags, their whole texts."""
    kind = HelpFormatter if names is None else ShortHelpFormatter
    formatter = kind(parser.prog, max_help_position=32)
    formatter.add_usage(parser.usage, parser._actions, [])
    formatter.add_text(parser.description)
    for title, actions in _groups(parser, names).items():
        formatter.start_section(title)
        formatter.add_arguments(actions)
        formatter.end_section()
    formatter.add_text(parser.epilog)
    return formatter.format_help()


def usage_of(parser: argparse.ArgumentParser, required: Collection[str]) -> str:
    """The first line of the help: the words that a command needs, among them its required flags."""
    formatter = HelpFormatter(parser.prog)
    formatter.add_usage(None, [action for action in parser._actions if not action.option_strings], [], prefix="")
    flags = {action.dest: action for action in parser._actions if action.const is None}
    needed = [f"--{name} {metavar_of(flags[name])}" for name in required]
    return " ".join([*formatter.format_help().split(), *needed, "[flags]"])


def declaration(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[tuple[int, int], type] | None:
    """Where a flag is declared: its place, a command's own classes first, and the class; None for `--help` itself."""
    for place, config in enumerate(getattr(parser, "dataclass_types", [])):
        if action.dest in config.__dataclass_fields__:
            owner = owner_of(action.dest, config)
            return (place, config.__mro__.index(owner)), owner
    return None


def _groups(parser: argparse.ArgumentParser, names: Collection[str] | None) -> dict[str, list[argparse.Action]]:
    """The actions to show, by the title of their group; the Trainer's own come last, but for the help itself."""
    found: list[tuple[bool, tuple[int, int], str, argparse.Action]] = []
    about_help = []
    for action in parser._actions:
        declared = declaration(parser, action)
        is_shown = names is None or not action.option_strings or action.dest in names  # without a name: on every screen
        if declared is None:
            about_help.append(action)
        elif is_shown and not isinstance(action, argparse._StoreFalseAction):
            place, owner = declared
            title = _TITLES_OF_LIBRARIES.get(owner.__name__) or owner.help_title  # type: ignore[attr-defined]
            found.append((title == _LAST, place, title, action))
    groups: dict[str, list[argparse.Action]] = {}
    for _, _, title, action in sorted(found, key=lambda each: each[:2]):
        groups.setdefault(title, []).append(action)
    return {**groups, "Help": about_help}
