"""`egup proxy`: a model and its forget rows in; rows of their kind that it never saw out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from egup_trainer.cli.common import (
    RunArguments,
    SourceArguments,
    check_output,
    load_on_device,
    one_line_errors,
    parse,
    quiet_libraries,
    refuse_lora_flags,
    require,
)
from egup_trainer.errors import ConfigError, check_range

AUTO = "auto"
"""The source `--proxy auto` of `egup unlearn`: the model writes its proxies itself."""


@dataclass
class ProxyArguments(SourceArguments, RunArguments):
    """Which rows, who writes, how much, and where it goes."""

    forget: str | None = field(default=None, metadata={"help": "Rows to forget: a source as for `egup unlearn`."})
    retain: str | None = field(default=None, metadata={"help": "Rows to keep, which proxies must not resemble either."})
    output: str | None = field(default=None, metadata={"help": "The proxies: a file that ends in .jsonl."})
    writer_model: str | None = field(
        default=None, metadata={"help": "Folder or hub id of the model that writes (default: the model itself)."}
    )
    num_rows: int = field(default=64, metadata={"help": "Proxies to write."})
    num_examples: int = field(default=4, metadata={"help": "Forget rows shown in a prompt."})
    temperature: float = field(default=0.9, metadata={"help": "Temperature of drawing; above 0."})
    top_p: float = field(default=0.95, metadata={"help": "Share of the probability that tokens are drawn from."})
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Most tokens of an attempt (default: twice what longer forget rows have)."}
    )
    max_attempts: int | None = field(default=None, metadata={"help": "Most attempts (default: 8 for each row)."})
    batch_size: int = field(default=16, metadata={"help": "Prompts in a batch, of up to 256 tokens."})
    seed: int = field(default=0, metadata={"help": "Seed of examples and draws."})
    max_length: int = field(default=1024, metadata={"help": "Most tokens in a row when it is scored."})
    feature_layer: float = field(default=0.5, metadata={"help": "Layer of the features: a share, or an index."})


def main(argv: list[str]) -> None:
    """Writes proxies, prints what came of the attempts.

    Raises:
        ConfigError: flags do not fit each other, or it runs on several processes.
    """
    quiet_libraries()
    from accelerate import PartialState
    from trl import ModelConfig

    args, model_config = parse("proxy", [ProxyArguments, ModelConfig], argv)
    settings = _check(args, model_config)

    with one_line_errors():
        state = PartialState(cpu=args.use_cpu)
        if state.num_processes > 1:
            raise ConfigError(
                got=f"{state.num_processes} processes", expected="one, which writes", fix="start `egup proxy` alone"
            )
        proxies = _write(
            model_config,
            args,
            settings,
            place=state,
            output=Path(args.output),
            writer_model=args.writer_model,
            template=args.template_for,
            batch_size=args.batch_size,
            progress=not args.disable_tqdm,
        )
    _print(proxies.quality, args.output)


def auto_proxies(row_args: Any, config: Any, model_config: Any) -> str:
    """Path of proxies that the model writes below the output folder; those of an equal run are taken as they are.

    Only the first process writes; the others wait for it.

    Args:
        row_args: of `egup unlearn`, with its sources of rows.
        config: an `EGUPConfig`.
        model_config: TRL's `ModelConfig`.
    """
    from accelerate import PartialState

    from egup_trainer.proxies.settings import ProxySettings
    from egup_trainer.trainer.preparation import check_output_folder

    check_output_folder(Path(model_config.model_name_or_path), Path(config.output_dir))
    output = Path(config.output_dir) / "_proxy" / "proxies.jsonl"
    state = PartialState()
    with state.main_process_first(), one_line_errors():
        if state.is_main_process:
            proxies = _write(
                model_config,
                row_args,
                ProxySettings(seed=config.seed, feature_layer=config.feature_layer, max_length=config.max_length),
                place=config,
                output=output,
                template=lambda *_: config.template,  # its date was fixed when the run's tokenizer was loaded
                batch_size=config.per_device_eval_batch_size,
                progress=not config.disable_tqdm,
                replace_other=True,
            )
            _print(proxies.quality, str(output))
    return str(output)


def _check(args: ProxyArguments, model_config: Any) -> Any:
    from egup_trainer.proxies.settings import ProxySettings
    from egup_trainer.proxies.writer import quality_path

    require("proxy", model_name_or_path=model_config.model_name_or_path, forget=args.forget, output=args.output)
    refuse_lora_flags(model_config)
    output = Path(cast(str, args.output))
    check_output(output, ".jsonl", '"digest": "', [args.forget, args.retain])
    check_output(quality_path(output), ".json", '"digest": "')
    check_range(args, ("batch_size",), low=1, whole=True)
    chosen = vars(args)
    return ProxySettings(**{name: chosen[name] for name in ProxySettings.__dataclass_fields__})


def _write(
    model_config: Any,
    sources: Any,
    settings: Any,
    *,
    place: Any,
    template: Callable[[Any, str], Any],
    writer_model: str | None = None,
    **options: Any,
) -> Any:
    """Reads rows, loads models onto `place.device`, and has rows written as `template(tokenizer, model)` says."""
    from egup_trainer.proxies.writer import Writer, write_proxies

    forget = sources.read(sources.forget)
    retain = None if sources.retain is None else sources.read(sources.retain)
    name = model_config.model_name_or_path
    model, tokenizer = _load(name, model_config, place)
    written = template(tokenizer, name)
    writer = Writer(model, tokenizer, name, written)
    if writer_model is not None:  # --model_revision is that of the model to unlearn
        writer = Writer(
            *_load(writer_model, replace(model_config, model_revision="main"), place), writer_model, written
        )
    return write_proxies(
        model, tokenizer, forget, retain, settings=settings, writer=writer, template=written, **options
    )


def _load(name: str, model_config: Any, place: Any) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from egup_trainer.modeling.loading import load_tokenizer

    tokenizer = load_tokenizer(name, revision=model_config.model_revision)
    return load_on_device(name, model_config, place), tokenizer


def _print(quality: Any, output: str) -> None:
    from egup_trainer.cli.terminal import terminal

    console = terminal()
    console.print(quality.table())
    if quality.warning:
        console.print(quality.warning)
    console.print(f"Written to {output}", soft_wrap=True)
