"""What the commands share: quiet libraries, and parsing with errors that fit on a line."""

import argparse
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from egup_trainer.data.schema import OnLongRow
from egup_trainer.errors import ConfigError, EgupError, choose, did_you_mean, first_line
from egup_trainer.files import check_writable, one_line_write_errors

_HEAD = 1 << 16
"""How many bytes of a file are looked at to tell what it is."""


def quiet_libraries() -> None:
    """Leaves the terminal to progress bars, results and our own warnings. Call it before a command's other imports."""
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore")
    # The handler is muted, not the logger: from a logger at level ERROR a Trainer concludes that bars are unwanted.
    for handler in transformers_logging.get_logger("transformers").handlers:
        if type(handler) is logging.StreamHandler:  # its own; others are the user's
            handler.setLevel(logging.ERROR)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@dataclass
class SourceArguments:
    """Where rows come from, besides their sources."""

    data_dir: str | None = field(
        default=None, metadata={"help": "Local folder with the files of TOFU, for tofu:NAME, or of MUSE."}
    )
    columns: str | None = field(
        default=None,
        metadata={
            "help": "What columns are named in your files, such as question=q,answer=a: the usual name, then your own."
        },
    )

    def read(self, source: str, max_rows: int | None = None) -> list[Any]:
        """The rows of a source, or `max_rows` of them from its start.

        Raises:
            ConfigError: `columns` cannot be read.
            DataError: the source cannot be read, or lacks one of the columns.
        """
        from egup_trainer.data.layouts import parse_columns
        from egup_trainer.data.sources import load_rows

        return load_rows(source, self.data_dir, parse_columns(self.columns), max_rows)


@dataclass
class MarkerArguments:
    """How rows are written: markers for a tokenizer without a chat template, a date for one with it."""

    user_marker: str = field(default="Question: ", metadata={"help": "As for `egup unlearn`."})
    assistant_marker: str = field(default="\nAnswer: ", metadata={"help": "As for `egup unlearn`."})

    on_long_row: OnLongRow = field(default=OnLongRow.WINDOW, metadata={"help": "As for `egup unlearn`."})
    template_date: str | None = field(
        default=None,
        metadata={
            "help": "Date as YYYY-MM-DD that a chat template writes where it asks for today's. By default that of the "
            "results to compare with, or of the run that made the model, or else today."
        },
    )

    def __post_init__(self) -> None:
        self.on_long_row = choose(OnLongRow, self.on_long_row, "on_long_row")

    @property
    def template(self) -> Any:
        """How rows are written, as a `Template`, as far as it is known without the tokenizer."""
        from egup_trainer.data.rendering import Template, today

        return Template(self.user_marker, self.assistant_marker, date=self.template_date or today())

    def template_for(self, tokenizer: Any, model: str, recorded: Iterable[str | None] = ()) -> Any:
        """How rows are written for a model.

        Args:
            tokenizer: the model's.
            model: its folder or hub id.
            recorded: dates of results that it is compared with.

        Raises:
            ConfigError: `template_date` is not a date, or the tokenizer's chat template writes none.
        """
        from egup_trainer.data.rendering import choose_date
        from egup_trainer.records.io import recorded_date

        date = choose_date(tokenizer, self.template_date, [*recorded, recorded_date(model)])
        return self.template if date is None else replace(self.template, date=date)


@dataclass
class RunArguments(MarkerArguments):
    """What all commands that run a model without training it take besides."""

    use_cpu: bool = field(default=False, metadata={"help": "Do not use a GPU."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})


def require(command: str, **given: Any) -> None:
    """Raises `ConfigError` for the first flag without which the command has nothing to do, if it was left out.

    Args:
        given: what was given, by the name of the flag.
    """
    for flag, value in given.items():
        if not value:
            raise ConfigError(got=f"no --{flag}", expected="it to be given", fix=f"see `egup {command} --help`")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raises `ConfigError` for what the libraries' own checks of options raise."""
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
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ConfigError(
            got=f"options that cannot be used ({first_line(error)})", expected="valid flags", fix="change them"
        ) from error


def check_output(path: Path, suffix: str, marks: str, read: Iterable[str | Path | None] = ()) -> None:
    """Refuses a file to write before any work is done for it.

    Args:
        path: the file.
        suffix: what its name must end in.
        marks: text in the first line or lines of each file that the command writes there. Any other file that is there
            already is not overwritten, be it rows, a model's configuration or something else.
        read: files that the command reads, which it must not overwrite.

    Raises:
        ConfigError: it has another ending, or is read, or holds something else.
        StateError: it cannot be written.
    """
    if path.suffix != suffix:
        raise ConfigError(got=f"--output {path}", expected=f"a name that ends in {suffix}", fix="rename it")
    if any(path.resolve() == Path(other).resolve() for other in read if other is not None):
        raise ConfigError(
            got=f"--output {path}, which would overwrite results that are read",
            expected="a name of its own",
            fix="choose another --output",
        )
    check_writable(path)
    with one_line_write_errors(path):
        head = b""
        if path.exists():
            with path.open("rb") as file:  # a folder of that name cannot be opened
                head = file.read(_HEAD)
    if head and marks.encode() not in head:
        raise ConfigError(
            got=f"--output {path}, which would overwrite a file that this command did not write",
            expected="a new file, or one with earlier results of the same command",
            fix="choose another --output",
        )


def check_output_dir(path: str | Path | None) -> None:
    """Refuses an output folder that cannot be made, before any work is done for it.

    Raises:
        ConfigError: there is a file of that name, or on the way to it.
        StateError: it cannot be written to.
    """
    if path is None:
        return
    if not str(path):
        raise ConfigError(got="an empty --output_dir", expected="a folder", fix="name one, or leave out --output_dir")
    with one_line_write_errors(f"--output_dir {path}"):  # a name may be too long
        nearest = next(each for each in (Path(path), *Path(path).absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise ConfigError(
            got=f"--output_dir {path}, which is no folder and cannot become one",
            expected="a folder that is there or can be made",
            fix="choose another --output_dir",
        )
    check_writable(path)


def refuse_lora_flags(model_config: Any) -> None:
    """Raises `ConfigError` for a flag that describes a new adapter, where a model is loaded to be measured."""
    for option in fields(model_config):
        is_lora = option.name.startswith(("lora_", "use_peft", "use_rslora", "use_dora"))
        if is_lora and getattr(model_config, option.name) != option.default:
            raise ConfigError(
                got=f"--{option.name}",
                expected="an adapter's folder as --model_name_or_path: it knows its own settings",
                fix=f"leave out --{option.name}",
            )


def load_on_device(name: str, model_config: Any, accelerator: Any) -> Any:
    """The model of that folder or hub id, on the `Accelerator`'s device, as the flags of TRL's `ModelConfig` say."""
    from egup_trainer.modeling.loading import keep_gradients_of_4bit_layers, load_model, model_init_kwargs

    kwargs = model_init_kwargs(model_config, use_cpu=accelerator.device.type == "cpu")
    model = load_model(name, **kwargs)
    keep_gradients_of_4bit_layers(model)  # as in training: repacked weights would compute in bfloat16
    return model if kwargs.get("quantization_config") else model.to(accelerator.device)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are a `ConfigError`, with a guess at what was meant.

    Raises:
        ConfigError: a flag is unknown, lacks its value or has one that does not fit.
    """

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError` with what argparse has to say of a flag."""
        raise ConfigError(got=message, expected="flags as shown by --help", fix=f"see `{self.prog} --help`")

    def refuse_unknown(self, words: list[str], also_known: Iterable[str] = ()) -> None:
        """Raises `ConfigError` for words that the parser had no use for."""
        if not words:
            return
        flag = next((word for word in words if word.startswith("-")), words[0]).partition("=")[0]
        known = [*also_known, *(option for action in self._actions for option in action.option_strings)]
        raise ConfigError(
            got=f"the unknown flag {flag}",
            expected=f"a flag of `{self.prog} --help`",
            fix=did_you_mean(flag, known, "remove it"),
        )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices, name = [str(choice) for choice in action.choices], (action.option_strings or [action.dest])[0]
            raise ConfigError(
                got=f"the invalid choice: {value!r} for {name}",
                expected=f"one of {', '.join(choices)}",
                fix=did_you_mean(value, choices, f"set {name}"),
            )


def parse(command: str, dataclasses: list[Any], argv: list[str]) -> tuple[Any, ...]:
    """Flags and an optional `--config FILE.yaml` -> one object for each dataclass; flags win over the file.

    Raises:
        ConfigError: a flag or a key of the file is unknown, lacks its value or has one that does not fit.
    """
    from trl import TrlParser

    if argv and argv[-1] == "--config":
        raise ConfigError(got="--config without a file", expected="--config FILE.yaml", fix="name the file")
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    types = {name: str(kind) for each in dataclasses for name, kind in get_type_hints(each).items()}

    class FileParser(OneLineParser, TrlParser):
        def set_defaults_with_config(self, **config: Any) -> list[str]:
            return super().set_defaults_with_config(**_as_flags(config, types))

    parser = FileParser(dataclasses, prog=f"egup {command}", allow_abbrev=False)
    try:
        with one_line_errors():
            *parsed, words = parser.parse_args_and_config(argv, return_remaining_strings=True)
    except ConfigError as error:
        raise _with_flags_in_the_way(error, parser, argv) from error
    parser.refuse_unknown(words, also_known=["--config"])
    return tuple(parsed)


def _with_flags_in_the_way(error: ConfigError, parser: Any, argv: list[str]) -> ConfigError:
    """The error of a library that does not say which flags it means, with those without which parsing succeeds."""
    if not isinstance(error.__cause__, ValueError | TypeError | OSError | ImportError):
        return error
    starts = [place for place, word in enumerate(argv) if word.startswith("--")]
    found = []
    for start, end in zip(starts, [*starts[1:], len(argv)], strict=True):
        with suppress(Exception):
            parser.parse_args_and_config(argv[:start] + argv[end:], return_remaining_strings=True)
            found.append(argv[start].partition("=")[0])
    if not found:
        return error
    return ConfigError(
        got=f"options that cannot be used ({first_line(error.__cause__)})",
        expected="valid flags",
        fix=f"change or leave out {' or '.join(dict.fromkeys(found))}",
    )


def _as_flags(config: dict[str, Any], types: dict[str, str]) -> dict[str, Any]:
    """What a YAML file says, as the command line would say it, so that it is read and checked alike.

    Raises:
        ConfigError: there is no such key, or its value is not of the kind that the flag takes.
    """
    flags = {}
    for name, value in config.items():
        if name not in types:
            raise ConfigError(
                got=f"the unknown key {name} in the --config file",
                expected="the names of flags, without --",
                fix=did_you_mean(name, types, "remove it"),
            )
        if types[name].startswith("list") and isinstance(value, str):
            value = [value]
        kind = type(value).__name__
        if (value is None and "None" not in types[name]) or (
            isinstance(value, list | dict) and kind not in types[name]
        ):
            raise ConfigError(
                got=f"{'nothing' if value is None else f'a {kind}'} for {name} in the --config file",
                expected="one value, as the flag takes it",
                fix=f"set {name}",
            )
        flags[name] = str(value) if isinstance(value, bool | int | float) else value
    return flags
