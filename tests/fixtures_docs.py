"""Finds the commands and Python blocks of README, CONTRIBUTING and docs, and checks that commands can be started.

Blocks are indented by four spaces or fenced by ```. A line in a block that begins with one of STARTS is a command.
After a line such as `<!-- needs: gpu -->`, the commands of the next block are checked but not run.
"""

import re
import shlex
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from generate.parsers import COMMANDS, parser_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
STARTS = ("egup ", "python -m ", "accelerate launch ", "torchrun ", "make ")
NEEDS = {
    "gpu": "a GPU, or several",
    "hub": "models or rows from the hub",
    "writer": "a model that can write rows in context",
    "optuna": "the package of that name; the block runs where it is installed",
}
ABBREVIATED = "--model_name_or_path path/to/your-model --forget forget.jsonl --retain retain.jsonl --output_dir out"
"""Replaces `...` in a command."""
_MARK = re.compile(r"<!-- needs: (\w+) -->")


@dataclass(frozen=True)
class Block:
    """A block of code on a page; `needs` is the word in the comment before it, or None."""

    page: Path
    line: int
    is_python: bool
    text: str
    needs: str | None

    @property
    def location(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command in the block."""
        lines = [] if self.is_python else self.text.replace("\\\n", " ").splitlines()
        commands = [line.replace(" ... ", f" {ABBREVIATED} ") for line in map(str.strip, lines)]
        return [shlex.split(line, comments=True) for line in commands if line.startswith(STARTS)]


@cache
def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    found: list[Block] = []
    needs = language = None  # `language` is None outside of a fence
    inside: list[str] = []  # lines of the current block

    def end(number: int) -> None:
        nonlocal needs
        text = "\n".join(inside).rstrip() + "\n"
        if text.strip():
            start = number - len(inside)
            found.append(Block(page, start, language == "python", text, needs))
            needs = None
        inside.clear()

    for number, line in enumerate([*page.read_text(encoding="utf-8").splitlines(), "."], start=1):
        if line.startswith("```"):
            end(number)
            language = line.removeprefix("```") if language is None else None
        elif language is not None or line.startswith("    ") or (inside and not line):
            inside.append(line)
        else:
            end(number)
            mark = _MARK.fullmatch(line)
            needs = mark[1] if mark else needs if not line else None
    return found


def check(words: list[str]) -> None:
    """Raises `ValueError` if a command cannot be started: if a command, module, target, flag or choice is unknown."""
    match words:
        case ["egup", "--version" | "--help"]:
            return
        case ["egup", command, *arguments]:
            _check_egup(command, arguments)
        case ["accelerate", "launch", *arguments]:
            from accelerate.commands.launch import launch_command_parser

            parsed = _parse(launch_command_parser(), arguments)
            if not (ROOT / parsed.config_file).is_file():
                raise ValueError(f"no file {parsed.config_file}")
            _check_module(parsed.training_script, parsed.training_script_args)
        case ["torchrun", *arguments]:
            from torch.distributed.run import get_args_parser

            parsed = _parse(get_args_parser(), arguments)
            _check_module(parsed.training_script, parsed.training_script_args)
        case ["python", "-m", module, *arguments]:
            _check_module(module, arguments)
        case ["make", target]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
                raise ValueError(f"no target {target} in the Makefile")
        case _:
            raise ValueError(f"no command of this project: {' '.join(words[:2])}")


@cache
def known_flags(command: str) -> frozenset[str]:
    """The flags of a command of `egup`."""
    parser = parser_of(command)
    actions = [] if parser is None else parser._actions
    return frozenset(flag for action in actions for flag in action.option_strings)


def _check_egup(command: str, arguments: list[str]) -> None:
    if command not in COMMANDS:
        raise ValueError(f"no command egup {command}")
    flags = {word for word in arguments if word.startswith("--")} - {"--config"}  # TrlParser reads --config itself
    unknown = flags - known_flags(command)
    if unknown:
        raise ValueError(f"egup {command} has no {', '.join(sorted(unknown))}")
    parser = parser_of(command)
    if parser is not None and "--config" not in arguments:
        _parse(parser, arguments)


def _check_module(module: str, arguments: list[str]) -> None:
    if module == "egup_trainer.cli.main":
        return check(["egup", *arguments])
    if find_spec(module) is None:
        raise ValueError(f"no module {module}")
    return None


def _parse(parser, arguments: list[str]):
    def refuse(message: str) -> None:
        raise ValueError(f"{parser.prog}: {message}")

    parser.error = refuse
    return parser.parse_known_args(arguments)[0]
