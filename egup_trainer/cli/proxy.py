"""`egup proxy`: has a model write rows that are like the forget rows, about things that it never saw."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from egup_trainer.cli.command import Command, library_errors, model_config
from egup_trainer.cli.flags import (
    SOURCE,
    RunArguments,
    SourceArguments,
    TemplateArguments,
    check_output,
    flag,
    load_on_device,
    refuse_lora_flags,
    refuse_several_processes,
    with_flags_of,
)
from egup_trainer.cli.terminal import show
from egup_trainer.errors import ConfigError, EgupError, check_range, choose

AUTO = "auto"
"""The source `--proxy auto` of `egup unlearn`: the model writes its proxies itself."""


class Kind(str, Enum):
    """What `egup proxy` writes."""

    PROXY = "proxy"
    ALTERNATE = "alternate"


_OF_PROXIES = ("retain", "num_rows", "num_examples", "max_attempts", "feature_layer", "max_length")
"""Flags that alternate answers do not depend on."""


@dataclass
class ProxyArguments(SourceArguments, TemplateArguments, RunArguments):
    """Which rows, which model writes, and where the proxies go. `ProxySettings` adds how they are written."""

    help_title = "Proxies"

    kind: Kind = flag(
        "What to write: proxy (rows about something that the model never saw), or alternate (all forget rows, each "
        "with another answer, for --objective altpo).",
        Kind.PROXY.value,
    )
    forget: str | None = flag(f"Rows to forget: {SOURCE}.")
    retain: str | None = flag("Source of rows to keep, which proxies must not resemble either.")
    output: str | None = flag("The proxies: a file that ends in .jsonl.")
    writer_model: str | None = flag("Folder or hub id of the model that writes (default: the model itself).")
    batch_size: int = flag("Prompts per batch, of up to 256 tokens each.", 16)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kind = choose(Kind, self.kind, "kind")


def run(args: ProxyArguments, model_config: Any) -> None:
    """Writes proxies, and prints what became of the attempts.

    Raises:
        ConfigError: flags do not fit each other, or the command runs on several processes.
    """
    from accelerate import PartialState

    from egup_trainer.proxies.settings import ProxySettings
    from egup_trainer.proxies.writer import quality_path

    refuse_lora_flags(model_config)
    output = Path(str(args.output))
    check_output(output, ".jsonl", '"writer": "', [args.forget, args.retain])
    check_output(quality_path(output), ".json", '"digest": "')
    check_range(args, ("batch_size",), low=1, whole=True)
    for each in fields(args) if args.kind is Kind.ALTERNATE else ():
        if each.name in _OF_PROXIES and getattr(args, each.name) != each.default:
            raise ConfigError(
                got=f"--{each.name} with --kind alternate",
                expected="--kind proxy, whose rows depend on it",
                fix=f"leave out --{each.name}",
            )
    settings = ProxySettings(**{name: getattr(args, name) for name in ProxySettings.__dataclass_fields__})
    with library_errors():
        state = PartialState(cpu=args.use_cpu)
        refuse_several_processes("`egup proxy`", state.num_processes)
        if args.kind is Kind.ALTERNATE:
            _write_alternates(model_config, args, settings, state, output)
            return
        quality = _write(
            model_config,
            args,
            settings,
            accelerator=state,
            output=output,
            writer_model=args.writer_model,
            template=args.template_for,
            batch_size=args.batch_size,
            progress=not args.disable_tqdm,
        )
    _print(quality, output)


def writes_proxies(row_args: Any, config: Any) -> bool:
    """Whether `egup unlearn` has the model write proxies: as asked for, or as its objective needs them."""
    is_needed = config.objective == "proxy_kl" and config.proxy_model is None
    return row_args.proxy == AUTO or (row_args.proxy is None and is_needed)


def auto_proxies(row_args: Any, config: Any, model_config: Any) -> str:
    """Path of proxies that the model writes below the output folder; those of an equal run are used again.

    Only the first process writes; the others wait for it, and fail if it does.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from egup_trainer.proxies.settings import ProxySettings

    output = Path(config.output_dir) / "_proxy" / "proxies.jsonl"
    failed: list[EgupError | None] = [None]
    if PartialState().is_main_process:
        try:
            with library_errors():
                quality = _write(
                    model_config,
                    row_args,
                    ProxySettings(seed=config.seed, feature_layer=config.feature_layer, max_length=config.max_length),
                    accelerator=config,  # as an `Accelerator`, it has the device
                    loading=config.model_init_kwargs,
                    output=output,
                    template=lambda *_: config.template,  # its date was fixed when the run's tokenizer was loaded
                    batch_size=config.per_device_eval_batch_size,
                    progress=not config.disable_tqdm,
                    replace_other=True,
                )
            _print(quality, output)
        except EgupError as error:
            failed = [error]
    broadcast_object_list(failed)  # all processes go on in the same way
    if failed[0] is not None:
        raise failed[0]
    return str(output)


def _write(
    model_config: Any,
    sources: Any,
    settings: Any,
    *,
    accelerator: Any,
    template: Callable[[Any, str], Any],
    writer_model: str | None = None,
    loading: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Reads rows, loads models onto the accelerator's device, and has proxies written; their `Quality`."""
    from egup_trainer.modeling.loading import load_tokenizer
    from egup_trainer.proxies.writer import Writer, write_proxies

    def load(name: str, config: Any) -> tuple[Any, Any]:
        where = {"revision": config.model_revision, **(loading or {})}
        known = {key: where[key] for key in ("revision", "trust_remote_code") if key in where}
        tokenizer = load_tokenizer(name, **known)
        return load_on_device(name, config, accelerator, **(loading or {})), tokenizer

    forget = sources.read(sources.forget)
    retain = None if sources.retain is None else sources.read(sources.retain)
    name = model_config.model_name_or_path
    model, tokenizer = load(name, model_config)
    written = template(tokenizer, name)
    writer = Writer(model, tokenizer, name, written)
    if writer_model is not None:  # --model_revision is that of the model to unlearn
        writer = Writer(*load(writer_model, replace(model_config, model_revision="main")), writer_model, written)
    return write_proxies(
        model, tokenizer, forget, retain, settings=settings, writer=writer, template=written, **options
    ).quality


def _write_alternates(model_config: Any, args: ProxyArguments, settings: Any, accelerator: Any, output: Path) -> None:
    from egup_trainer.modeling.loading import load_tokenizer
    from egup_trainer.proxies.alternates import write_alternates
    from egup_trainer.proxies.writer import Writer

    name = args.writer_model or model_config.model_name_or_path
    if args.writer_model:  # --model_revision is that of the model to unlearn
        model_config = replace(model_config, model_revision="main")
    rows, tokenizer = args.read(str(args.forget)), load_tokenizer(name, revision=model_config.model_revision)
    model = load_on_device(name, model_config, accelerator)
    writer = Writer(model, tokenizer, name, args.template_for(tokenizer, name))
    written = write_alternates(writer, rows, output=output, settings=settings, batch_size=args.batch_size)
    show(lines=[f"{len(written)} forget rows, each with an alternate answer, written to {output}"])


def _print(quality: Any, output: Path) -> None:
    show(quality.table(), lines=filter(None, [quality.warning, f"Written to {output}"]))


def _options() -> list[type]:
    from egup_trainer.proxies.settings import ProxySettings

    return [with_flags_of(ProxySettings, ProxyArguments, "How proxies are written"), model_config()]


COMMAND = Command(
    "proxy",
    "have a model write rows of the forget rows' kind that it never saw",
    run,
    options=_options,
    required=("model_name_or_path", "forget", "output"),
    shown=(
        *("kind", "retain", "columns", "writer_model", "num_rows", "num_examples", "temperature", "seed", "batch_size"),
        *("use_cpu", "load_in_4bit", "dtype"),
    ),
)
