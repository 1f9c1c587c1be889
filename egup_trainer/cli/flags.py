"""Flags that several commands share, and the checks of files and folders that commands write."""

import re
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from egup_trainer.data.schema import OnLongRow
from egup_trainer.data.template_inputs import parse_mapping
from egup_trainer.errors import ConfigError, choose
from egup_trainer.files import check_writable, one_line_write_errors

SOURCE = (
    "a .jsonl, .json, .csv, .tsv or .parquet file, a saved dataset, tofu:NAME, or a hub id owner/name[:config[:split]]"
)
_HEAD_BYTES = 1 << 16


def flag(help: str, default: Any = None, **metadata: Any) -> Any:
    """A field of a dataclass that is a flag of the same name; `metadata` are keywords for `Parser.add_argument`."""
    return field(default=default, metadata={"help": help, **metadata})


def positional(help: str, **metadata: Any) -> Any:
    """A field of a dataclass that is a positional argument."""
    return flag(help, MISSING, positional=True, **metadata)


def with_flags_of(settings: Any, arguments: Any, title: str) -> Any:
    """The dataclass `arguments` with a flag for each further field of `settings`, explained as in its docstring.

    Fields whose default is made by a function are left out, as are those of the Python interface alone: `batch_size`,
    which is a flag of its own, and `progress`. The help shows them under the `title`.
    """
    described = dict(re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", settings.__doc__ or "", re.MULTILINE))
    added = [
        (each.name, each.type, flag(" ".join(described[each.name].split()), each.default))
        for each in fields(settings)
        if each.default is not MISSING
        and each.name not in ("batch_size", "progress", *(known.name for known in fields(arguments)))
    ]
    namespace = {"__module__": arguments.__module__, "help_title": title}
    return make_dataclass(arguments.__name__, added, bases=(arguments,), namespace=namespace)


@dataclass
class Arguments:
    """Base of the flags of every command."""

    help_title: ClassVar[str] = "Flags"
    """The group of these flags in the help of commands."""

    def __post_init__(self) -> None:
        self.argv: list[str] = []  # the words of the whole command, set once they are parsed


@dataclass
class SourceArguments(Arguments):
    """Where rows come from, besides their sources."""

    help_title = "Data"

    data_dir: str | None = flag("Local folder with the files of TOFU (for tofu:NAME), MUSE, WMDP or RWKU.")
    columns: str | None = flag("Columns of your files, as standard name=your name, such as question=q,answer=a.")

    def read(self, source: str, max_rows: int | None = None) -> list[Any]:
        """The rows of a source, or its first `max_rows` rows.

        Raises:
            ConfigError: `columns` cannot be read.
            DataError: the source cannot be read, or lacks one of the columns.
        """
        from egup_trainer.data.layouts import parse_columns
        from egup_trainer.data.sources import load_rows

        return load_rows(source, self.data_dir, parse_columns(self.columns), max_rows)


@dataclass
class TemplateArguments(Arguments):
    """How rows are written: markers for a tokenizer without a chat template, and what a chat template is given."""

    help_title = "Format of rows"

    user_marker: str | None = flag(
        "Text before the question, instead of a chat template. By default the chat template, or else 'Question: '."
    )
    assistant_marker: str | None = flag(
        "Text before the answer, instead of a chat template. By default the chat template, or else '\\nAnswer: '."
    )
    template_date: str | None = flag(
        "Date (YYYY-MM-DD) that a chat template writes as today's. By default the date of the results to compare "
        "with, else the date in the record of the model, else today's."
    )
    system_prompt: str | None = flag(
        "Text of a system turn before the turns of each row; a row that has one keeps its own. By default that of the "
        'results to compare with, else that in the record of the model, else none; "" for none.'
    )
    template_kwargs: dict | str | None = flag(
        """Variables of the chat template as JSON, such as '{"enable_thinking": false}'. By default those of the """
        "results to compare with, else those in the record of the model, else none."
    )

    @property
    def template(self) -> Any:
        """How rows are written, as a `Template`, as far as it is known without the tokenizer."""
        from egup_trainer.data.rendering import Template

        markers = Template.marked(self.user_marker, self.assistant_marker, self.template_date)
        return self._inputs.apply(markers)

    def template_for(self, tokenizer: Any, model: str, recorded: Iterable[Any] = ()) -> Any:
        """How rows are written for a model: as a flag, the `recorded` results to compare with, or its record say.

        Raises:
            ConfigError: `template_date` is not a date, or `template_kwargs` is no JSON, or the chat template of the
                tokenizer does not read one of them.
        """
        from egup_trainer.data.template_inputs import TemplateInputs, choose_inputs
        from egup_trainer.records.io import recorded_options

        earlier = [TemplateInputs.of(each) for each in (*recorded, recorded_options(model))]
        template = self.template
        return choose_inputs(None if template.always else tokenizer, self._inputs, earlier).apply(template)

    @property
    def _inputs(self) -> Any:
        from egup_trainer.data.template_inputs import TemplateInputs, parse_template_kwargs

        return replace(TemplateInputs.of(self), template_kwargs=parse_template_kwargs(self.template_kwargs))


@dataclass
class LongRowArguments(Arguments):
    """What happens to rows that are too long."""

    help_title = "Format of rows"

    on_long_row: OnLongRow = flag(
        "What to do with a row longer than --max_length: read it in several windows, cut it, or refuse it (error).",
        OnLongRow.WINDOW.value,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.on_long_row = choose(OnLongRow, self.on_long_row, "on_long_row")


@dataclass
class LoadingArguments(Arguments):
    """What `from_pretrained` is given besides what the flags of a model say."""

    help_title = "Machine"

    model_init_kwargs: dict | str | None = flag(
        """Arguments of from_pretrained as JSON, such as '{"device_map": "auto", "offload_folder": "offloaded"}' for """
        "a model larger than the GPU.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.loading = parse_mapping("model_init_kwargs", self.model_init_kwargs or {}, '{"device_map": "auto"}')

    def tokenizer(self, name: str, model_config: Any) -> Any:
        """The tokenizer of the model of that folder or hub id."""
        from egup_trainer.modeling.loading import load_tokenizer

        trusts = bool(self.loading.get("trust_remote_code", False))
        return load_tokenizer(name, trust_remote_code=trusts, revision=model_config.model_revision)


@dataclass
class RunArguments(Arguments):
    """What all commands that run a model without training it take."""

    help_title = "Machine"

    use_cpu: bool = flag("Do not use a GPU.", False)
    disable_tqdm: bool = flag("Do not show progress bars.", False)


def check_output(
    path: Path, suffix: str, marks: str, read: Iterable[str | Path | None] = (), flag: str = "--output"
) -> None:
    """Refuses a file to write before any work is done for it.

    Args:
        path, suffix: the file, and what its name must end in.
        marks: text in the first lines of each file that the command writes there. Any other file at that path is not
            overwritten, whether it holds rows, the configuration of a model or something else.
        read: files that the command reads, which it must not overwrite.
        flag: the flag that names the file.

    Raises:
        ConfigError: the name has another ending, or the file is read, or it holds something else.
        StateError: it cannot be written.
    """
    if path.suffix != suffix:
        raise ConfigError(got=f"{flag} {path}", expected=f"a name that ends in {suffix}", fix="rename it")
    if any(path.resolve() == Path(other).resolve() for other in read if other is not None):
        raise ConfigError(
            got=f"{flag} {path}, which would overwrite a file that the command reads",
            expected="another file",
            fix=f"choose another {flag}",
        )
    check_writable(path)
    with one_line_write_errors(path):
        head = b""
        if path.exists():
            with path.open("rb") as file:  # a folder of that name cannot be opened
                head = file.read(_HEAD_BYTES)
    if head and marks.encode() not in head:
        raise ConfigError(
            got=f"{flag} {path}, which would overwrite a file that this command did not write",
            expected="a new file, or one with earlier results of the same command",
            fix=f"choose another {flag}",
        )


def check_output_dir(path: str | Path) -> None:
    """Refuses an output folder that cannot be made, before any work is done for it.

    Raises:
        ConfigError: the path or one of its parents is a file.
        StateError: the folder cannot be written to.
    """
    if not str(path):
        raise ConfigError(got="an empty --output_dir", expected="a folder", fix="name one, or leave out --output_dir")
    with one_line_write_errors(f"--output_dir {path}"):  # a name may be too long
        nearest = next(each for each in (Path(path), *Path(path).absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise ConfigError(
            got=f"--output_dir {path}, where {nearest} is a file",
            expected="a folder that exists or can be made",
            fix="choose another --output_dir",
        )
    check_writable(path)


def refuse_alone(name: str, other: str) -> None:
    """Raises `ConfigError` for a flag that has no effect without another one."""
    raise ConfigError(got=f"--{name} without --{other}", expected="both flags or neither", fix=f"set --{other}")


def refuse_several_processes(what: str, num_processes: int) -> None:
    """Raises `ConfigError` if a command that must run in one process runs in several."""
    if num_processes > 1:
        raise ConfigError(
            got=f"{what} on {num_processes} processes", expected="one process", fix="run the command in one process"
        )


def refuse_lora_flags(model_config: Any) -> None:
    """Raises `ConfigError` for a flag that describes a new adapter, where a model is only measured."""
    for option in fields(model_config):
        is_lora = option.name.startswith(("lora_", "use_peft", "use_rslora", "use_dora"))
        if is_lora and getattr(model_config, option.name) != option.default:
            raise ConfigError(
                got=f"--{option.name}",
                expected="the folder of an adapter as the model: it holds its own settings",
                fix=f"leave out --{option.name}",
            )


def load_on_device(name: str, model_config: Any, accelerator: Any, **others: Any) -> Any:
    """The model of that folder or hub id, as the flags of `ModelConfig` and other arguments of `load_model` say.

    It is on the device of the `Accelerator`, or where a `device_map` among the arguments puts its parts.
    """
    from egup_trainer.modeling.loading import keep_gradients_of_4bit_layers, load_model, model_init_kwargs

    kwargs = model_init_kwargs(model_config, use_cpu=accelerator.device.type == "cpu") | others
    model = load_model(name, **kwargs)
    keep_gradients_of_4bit_layers(model)  # as in training: repacked weights would compute in bfloat16
    is_placed = kwargs.get("quantization_config") or kwargs.get("device_map")
    return model if is_placed else model.to(accelerator.device)
