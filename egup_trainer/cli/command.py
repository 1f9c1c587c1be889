"""What a command of `egup` is: a summary, its flags as dataclasses, and the function that runs it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.errors import ConfigError, EgupError, first_line

if TYPE_CHECKING:
    from egup_trainer.cli.parser import Parser

COMMANDS = (
    *("unlearn", "merge", "chat", "plan", "proxy", "retrain", "evaluate", "audit", "verify"),
    *("ledger", "compare", "inspect", "env", "completion", "demo"),
)
"""Names of all commands, in the order of `egup --help`. `egup_trainer.cli.NAME` declares each one as `COMMAND`."""
OF_LIBRARIES = (ValueError, TypeError, OSError, ImportError)
"""What libraries raise about options."""


@dataclass(frozen=True)
class Command:
    """A command of `egup`.

    Args:
        name, summary: what is typed after `egup`, and one line for `egup --help` and for the documentation.
        run: runs the command with one object of each of the dataclasses, and returns the exit code, or None for 0.
        check: takes the same objects, and raises an error for all that can be refused before a model is loaded; for
            commands that another command runs at its end.
        options: returns the dataclasses whose fields are the flags, the command's own first. It is a function because
            the dataclasses of libraries take seconds to import.
        required: fields that a flag or the `--config` file must set.
        shown: names of the flags that `egup NAME --help` shows, beside the required ones; all of them if none is named.
            `--help_all` shows the rest.
        description: what `egup NAME --help` says above the flags; by default the summary.
        uses_models: whether the command imports transformers, whose warnings are then silenced.
    """

    name: str
    summary: str
    run: Callable[..., int | None]
    options: Callable[[], list[Any]]
    required: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    description: str | None = None
    uses_models: bool = True
    check: Callable[..., None] = lambda *parsed: None

    def parser(self) -> "Parser":
        """The command's parser."""
        from egup_trainer.cli.help import REQUIRED, HelpAll, usage_of
        from egup_trainer.cli.parser import Parser

        description = self.description or f"{self.summary[0].upper()}{self.summary[1:]}."
        parser = Parser(
            self.options(),
            prog=f"egup {self.name}",
            description=description,
            epilog="--config FILE.yaml reads flags from a file; those that are typed win.",
            allow_abbrev=False,
        )
        for action in parser._actions:
            if action.dest in self.required:
                action.help = f"{action.help}{REQUIRED}"
        if self.shown:
            parser.shown = {*self.shown, *self.required}
            parser.add_argument(
                "--help_all", action=HelpAll, help="show all flags, and their whole help texts, and exit"
            )
        parser.usage = usage_of(parser, self.required)
        return parser

    def main(self, argv: list[str]) -> int:
        """Parses the words that follow the command's name, and runs it.

        Raises:
            ConfigError: a flag or a key of the `--config` file is unknown, missing, or has a value that does not fit.
        """
        return self.run(*self.parse(argv)) or 0

    def parse(self, argv: list[str]) -> list[Any]:
        """The words that follow the command's name, as one object of each of its dataclasses.

        Raises:
            ConfigError: as in `main`.
        """
        if self.uses_models:
            quiet_libraries()  # before the libraries are imported
        parsed = self.parser().parse(argv)
        for name in self.required:
            if not any(getattr(each, name, None) for each in parsed):
                raise ConfigError(
                    got=f"no --{name}",
                    expected=f"a value, since --{name} is required",
                    fix=f"see `egup {self.name} --help`",
                )
        parsed[0].argv = ["egup", self.name, *argv]
        return parsed


def load_command(name: str) -> Command:
    """The command of that name.

    Raises:
        ModuleNotFoundError: there is no such command.
    """
    return import_module(f"egup_trainer.cli.{name}").COMMAND


def model_config() -> Any:
    """TRL's `ModelConfig`: the flags that describe a model and its adapter."""
    from trl import ModelConfig

    return ModelConfig


@contextmanager
def library_errors() -> Iterator[None]:
    """Raises `ConfigError` for the errors that libraries raise about options."""
    from yaml import YAMLError

    try:
        yield
    except EgupError:
        raise
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            got=f"a --config file that is not YAML{'' if mark is None else f' (line {mark.line + 1})'}",
            expected="lines such as `objective: npo`",
            fix="repair the file",
        ) from error
    except OF_LIBRARIES as error:
        raise ConfigError(
            got=f"options that cannot be used ({first_line(error)})", expected="valid flags", fix="change them"
        ) from error
