"""What the commands share: quiet libraries, and parsing with errors that fit on a line."""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from egup_trainer.errors import ConfigError, EgupError


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
class MarkerArguments:
    """How rows are written for a tokenizer without a chat template."""

    user_marker: str = field(default="Question: ", metadata={"help": "As for `egup unlearn`."})
    assistant_marker: str = field(default="\nAnswer: ", metadata={"help": "As for `egup unlearn`."})

    @property
    def template(self) -> Any:
        """The markers as a `Template`."""
        from egup_trainer.data.tokenization import Template

        return Template(self.user_marker, self.assistant_marker)


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
    """Turns what the libraries' own checks of options raise into a `ConfigError`."""
    try:
        yield
    except EgupError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            got=f"options that cannot be used ({first_line})", expected="valid flags", fix="change them"
        ) from error


def check_output(path: Path, suffix: str, read: Iterable[str | Path | None] = ()) -> None:
    """Refuses a file to write before any work is done for it.

    Args:
        path: the file.
        suffix: what its name must end in.
        read: files that the command reads, which it must not overwrite.

    Raises:
        ConfigError: it cannot be written, or has another ending, or is read.
    """
    if path.suffix != suffix:
        raise ConfigError(got=f"--output {path}", expected=f"a name that ends in {suffix}", fix="rename it")
    if any(path.resolve() == Path(other).resolve() for other in read if other is not None):
        raise ConfigError(
            got=f"--output {path}, which would overwrite results that are read",
            expected="a name of its own",
            fix="choose another --output",
        )
    folder = next(each for each in path.absolute().parents if each.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(
            got=f"--output {path}, where no file can be written",
            expected="a file in a folder that is there or can be made",
            fix="choose another --output",
        )


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


def parse(command: str, dataclasses: list[type], argv: list[str]) -> tuple[Any, ...]:
    """Flags and an optional `--config FILE.yaml` -> one object for each dataclass; flags win over the file.

    Raises:
        ConfigError: a flag is unknown, lacks its value or has one that does not fit.
    """
    from trl import TrlParser

    class OneLineParser(TrlParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(got=message, expected="flags as shown by --help", fix=f"see `egup {command} --help`")

    parser = OneLineParser(dataclasses, prog=f"egup {command}", allow_abbrev=False)
    with one_line_errors():
        *parsed, unknown = parser.parse_args_and_config(argv, return_remaining_strings=True)
    flags = [word for word in unknown if word.startswith("-")] or unknown
    if flags:
        known = [option for action in parser._actions for option in action.option_strings]
        close = get_close_matches(flags[0], known, n=1)
        raise ConfigError(
            got=f"the unknown flag {flags[0]}",
            expected=f"a flag of `egup {command} --help`",
            fix=f"did you mean {close[0]}?" if close else "remove it",
        )
    return tuple(parsed)
