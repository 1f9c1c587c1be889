"""The page of commands, read from their parsers."""

import argparse
from collections import defaultdict

from egup_trainer.cli.help import declaration
from generate.configuration import show
from generate.parsers import COMMANDS, flags_of, load_command
from generate.tables import code, table

_OURS = "egup_trainer"


def commands_page() -> str:
    """A section for each command that there is."""
    return "\n\n".join(_section(name) for name in COMMANDS)


def _section(name: str) -> str:
    command = load_command(name)
    parser = command.parser()
    parts = [f"### egup {name}", f"{command.summary[:1].upper()}{command.summary[1:]}."]
    owners = {action: _owner(action, parser) for action in flags_of(parser)}
    groups = defaultdict(list)
    for action in sorted(owners, key=lambda each: owners[each][0]):
        groups[owners[action][1]].append(action)
    for origin, actions in groups.items():
        rows = [[_flags(each), _default(each), (each.help or "").replace("%%", "%")] for each in actions]
        shown = table(["flag", "default", "meaning"], rows)
        parts.append(shown if origin == _OURS else _folded(f"{len(rows)} flags of {origin}", shown))
    return "\n\n".join(parts)


def _owner(action: argparse.Action, parser: argparse.ArgumentParser) -> tuple[tuple[int, int], str]:
    """Where a flag stands: with the class that declares it, own ones first; and this package or a library's class."""
    declared = declaration(parser, action)
    if declared is None:
        return (0, 0), _OURS
    place, owner = declared
    package = owner.__module__.split(".")[0]
    return place, _OURS if package == _OURS else f"{package}.{owner.__name__}"


def _flags(action: argparse.Action) -> str:
    own = [each for each in action.option_strings if "-" not in each.removeprefix("--")]  # TRL has each name twice
    return code(", ".join(own or action.option_strings) or str(action.metavar or action.dest))


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    hidden = action.default in (None, argparse.SUPPRESS, [])
    return "" if hidden else code(show(action.default))


def _folded(title: str, text: str) -> str:
    """A table that opens on demand."""
    inside = text.replace("\n", "\n    ")
    return f'??? note "{title}"\n\n    {inside}'
