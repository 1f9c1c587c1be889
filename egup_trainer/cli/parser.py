"""The parser of all commands: TRL's, with errors that fit on one line and a checked `--config` file."""

import argparse
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from trl import TrlParser

from egup_trainer.cli.command import OF_LIBRARIES, library_errors
from egup_trainer.cli.help import help_text
from egup_trainer.errors import ConfigError, did_you_mean

_TRUTH_VALUES = {"true", "false", "yes", "no", "t", "f", "y", "n", "1", "0"}
"""What TRL's parser reads as the value of a switch."""
_SWITCH = "string_to_bool"
_KINDS = {"int": "a whole number", "float": "a number", _SWITCH: "true or false"}
"""What a flag takes, by the name of the function that reads its value: TRL's parsers wrap it, but keep its name."""


class Parser(TrlParser):
    """A parser of dataclasses whose errors are a `ConfigError`, with a guess at what was meant.

    In the metadata of a field, `positional=True` makes a positional argument of it, and `positional="?"` a flag whose
    name may be left out.
    """

    bare_flag: str | None = None
    """The flag whose name may be left out."""

    shown: Collection[str] | None = None
    """Names of the flags on the help's first screen; None for all."""

    def add_argument(self, *names: str, positional: bool | str = False, **kwargs: Any) -> argparse.Action:
        """Adds a flag or a positional argument; a flag that takes a truth value is a switch, which needs no value."""
        if getattr(kwargs.get("type"), "__name__", None) == _SWITCH:
            kwargs |= {"nargs": "?", "const": True}
        if positional is True:
            kwargs.pop("required", None)
            return super().add_argument(names[0].removeprefix("--"), **kwargs)
        if positional == "?":
            self.bare_flag = names[0].removeprefix("--")
        return super().add_argument(*names, **kwargs)

    def format_help(self) -> str:
        """What `--help` prints."""
        return help_text(self, self.shown)

    def parse(self, argv: list[str]) -> list[Any]:
        """Flags and an optional `--config FILE.yaml` as one object of each dataclass; flags win over the file.

        Raises:
            ConfigError: a flag or a key of the file is unknown, lacks its value, or has one that does not fit.
        """
        if argv[-1:] == ["--config"]:
            raise ConfigError(got="--config without a file", expected="--config FILE.yaml", fix="name the file")
        argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
        if "--config" in argv:
            _check_readable(argv[argv.index("--config") + 1])
        argv = self._with_values_of_switches(argv)
        try:
            with library_errors():
                *parsed, unknown = self.parse_args_and_config(argv, return_remaining_strings=True)
        except ConfigError as error:
            raise self._with_the_flags_at_fault(error, argv) from error
        if self.bare_flag and len(unknown) == 1 and not unknown[0].startswith("-"):
            for each in parsed:
                if getattr(each, self.bare_flag, unknown) is None:
                    setattr(each, self.bare_flag, unknown.pop())
        if unknown:
            flag = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            known = ["--config", *(option for action in self._actions for option in action.option_strings)]
            raise ConfigError(
                got=f"the unknown flag {flag}",
                expected=f"a flag of `{self.prog} --help`",
                fix=did_you_mean(flag, known, "remove it"),
            )
        return parsed

    def set_defaults_with_config(self, **config: Any) -> list[str]:
        """Takes over the values of a `--config` file, read and checked as the command line would be.

        Raises:
            ConfigError: a key is not the name of a flag, or its value does not fit.
        """
        hints = {each: get_type_hints(each) for each in self.dataclass_types}  # of fields and of class attributes
        types = {flag.name: str(hints[each][flag.name]) for each in hints for flag in fields(each) if flag.init}
        return super().set_defaults_with_config(
            **{name: _as_on_the_command_line(name, value, types) for name, value in config.items()}
        )

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError` with the message of argparse."""
        got = f"flags that cannot be read ({message})"
        raise ConfigError(got=got, expected="flags as shown by --help", fix=f"see `{self.prog} --help`")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        with _one_sentence(action, repr(arg_string), "change"):
            return super()._get_value(action, arg_string)

    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        with _one_sentence(action, "without a value", "set"):
            return super()._match_argument(action, arg_strings_pattern)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices, name = [str(choice) for choice in action.choices], _name_of(action)
            raise ConfigError(
                got=f"the invalid choice: {value!r} for {name}",
                expected=f"one of {', '.join(choices)}",
                fix=did_you_mean(value, choices, f"set {name}"),
            )

    def _with_values_of_switches(self, argv: list[str]) -> list[str]:
        """The words with "true" after each switch that stands before a positional argument, not before its value."""
        if self.bare_flag is None and all(action.option_strings for action in self._actions):
            return argv
        switches = {option for action in self._actions if action.const is True for option in action.option_strings}
        return [
            part
            for word, following in zip(argv, [*argv, ""][1:], strict=True)
            for part in ([word, "true"] if word in switches and following.lower() not in _TRUTH_VALUES else [word])
        ]

    def _with_the_flags_at_fault(self, error: ConfigError, argv: list[str]) -> ConfigError:
        """The error of a library that does not name flags, with the flags without which parsing succeeds."""
        cause = error.__cause__
        if not isinstance(cause, OF_LIBRARIES):
            return error
        starts = [index for index, word in enumerate(argv) if word.startswith("--")]
        found = []
        for start, end in zip(starts, [*starts[1:], len(argv)], strict=True):
            with suppress(Exception):
                self.parse_args_and_config(argv[:start] + argv[end:], return_remaining_strings=True)
                found.append(argv[start].partition("=")[0])
        if not found:
            return error
        return ConfigError(
            got=error.got, expected="valid flags", fix=f"change or leave out {' or '.join(dict.fromkeys(found))}"
        )


@contextmanager
def _one_sentence(action: argparse.Action, given: str, remedy: str) -> Iterator[None]:
    """Raises argparse's error about a flag as a `ConfigError`."""
    try:
        yield
    except argparse.ArgumentError as error:
        name = _name_of(action)
        raise ConfigError(got=f"{name} {given}", expected=_taken_by(action), fix=f"{remedy} {name}") from error


def _name_of(action: argparse.Action) -> str:
    return (action.option_strings or [action.dest])[0]


def _taken_by(action: argparse.Action) -> str:
    """What a flag takes, in words."""
    if action.choices is not None:
        return f"one of {', '.join(map(str, action.choices))}"
    return _KINDS.get(getattr(action.type, "__name__", ""), "a value")


def _check_readable(path: str) -> None:
    """Raises `ConfigError` if a `--config` file cannot be read as text."""
    try:
        Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            got=f"--config {path}, which cannot be read ({why})",
            expected="a YAML file with lines such as `objective: npo`",
            fix="check the path",
        ) from error


def _as_on_the_command_line(name: str, value: Any, types: dict[str, str]) -> Any:
    """A value of a YAML file as the command line would have it: a text, or a list of texts."""
    if name not in types:
        raise ConfigError(
            got=f"the unknown key {name} in the --config file",
            expected="the names of flags, without --",
            fix=did_you_mean(name, types, "remove it"),
        )
    if types[name].startswith("list") and isinstance(value, str):
        return [value]
    kind = type(value).__name__
    is_refused_list = isinstance(value, list | dict) and kind not in types[name]
    if is_refused_list or (value is None and "None" not in types[name]):
        raise ConfigError(
            got=f"{'nothing' if value is None else f'a {kind}'} for {name} in the --config file",
            expected="one value, as the flag takes it",
            fix=f"set {name}",
        )
    # YAML reads a date, too, where a flag has a text.
    return value if value is None or isinstance(value, list | dict) else str(value)
