"""`egup verify`: whether a saved model has the files of its run, and whether it gives the numbers that it recorded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from egup_trainer.cli.command import Command, library_errors, model_config
from egup_trainer.cli.flags import RunArguments, SourceArguments, flag, load_on_device, refuse_lora_flags
from egup_trainer.cli.run_file import MODEL_FILES, digests_of, load_as_recorded
from egup_trainer.cli.terminal import make_table, show
from egup_trainer.errors import ConfigError, DataError, check_range, choose
from egup_trainer.records.io import read_run
from egup_trainer.records.judgments import AFTER, MERGED
from egup_trainer.records.schema import Run


@dataclass
class VerifyArguments(SourceArguments, RunArguments):
    """The record, the model, and the rows."""

    help_title = "Verification"

    record: str | None = flag(
        "OUTPUT_DIR/_run.json of `egup unlearn`; the name of the flag may be left out.", positional="?"
    )
    model: str | None = flag("The saved model: its folder or hub id.")
    forget: str | None = flag("Source of the rows to forget, if it has moved since the run.")
    retain: str | None = flag("Source of the rows to keep, if it has moved.")
    proxy: str | None = flag("Source of the proxies, if it has moved.")
    earlier_forget: list[str] | None = flag("Sources of the rows of earlier requests: all of those that have moved.")
    tolerance: float = flag("How far a number may differ from the recorded one, as a share of it.", 1e-3)
    per_device_eval_batch_size: int = flag("Rows per batch, of up to 256 tokens each.", 8)


def run(args: VerifyArguments, model_config: Any) -> int:
    """Compares files and numbers with the record.

    Returns:
        0 if files and numbers are equal, 1 if one of them is not. What cannot be checked is an error (exit code 2).

    Raises:
        ConfigError: a flag is out of range, or describes the model in a way that is not used.
        DataError: the record or the rows cannot be used.
    """
    check_range(args, ("tolerance",), low=0)
    check_range(args, ("per_device_eval_batch_size",), low=1, whole=True)
    refuse_lora_flags(model_config)
    if model_config.model_name_or_path is not None:
        raise ConfigError(got="--model_name_or_path", expected="the saved model as --model", fix="use --model")
    run = read_run(Path(str(args.record)))
    when, recorded = _recorded(run, str(args.model))
    changes = _changes(run.files[when], _files_of(args, model_config))
    if changes:
        print(f"Files changed: {', '.join(changes)}.")
    else:
        print(f"Files equal: {len(run.files[when])} of {len(run.files[when])}.")
    if when == AFTER:
        load_as_recorded(model_config, run.loading)
    try:
        found = _measure(args, model_config, run, "no" if when == MERGED else run.mixed_precision)
    except DataError as error:
        if not changes:
            raise
        print(f"Numbers not measured: {error}")  # another tokenizer or template reads the rows differently
        return 1
    table = make_table("Probability of answers", ("rows", f"recorded ({when})", "now", "difference"))
    for name, value in recorded.items():
        off = abs(found[name] - value) / value if value else float(found[name] != value)
        table.add_row(name, f"{value:.6g}", f"{found[name]:.6g}", f"{off:.1e}")
    show(table)
    different = [name for name in recorded if not abs(found[name] - recorded[name]) <= args.tolerance * recorded[name]]
    if different:
        print(f"Numbers not equal: {', '.join(different)}. Is it the model of this run?")
    else:
        print(f"Numbers equal, within a share of {args.tolerance:g}.")
    return 1 if different or changes else 0


def _files_of(args: VerifyArguments, model_config: Any) -> dict[str, str]:
    """Digests of the model's files; those of a hub model are downloaded."""
    folder = Path(str(args.model))
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        from egup_trainer.modeling.loading import load_tokenizer

        name, revision = str(args.model), model_config.model_revision
        load_tokenizer(name, revision=revision)  # explains what is wrong with the name if there is no such model
        with library_errors():
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES)))
    return digests_of(folder, progress=not args.disable_tqdm)


def _changes(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    """The names of files that differ, with a remark on those that only one side has."""
    remarks = {**dict.fromkeys(recorded, ""), **dict.fromkeys(found.keys() - recorded.keys(), " (new)")}
    remarks |= dict.fromkeys(recorded.keys() - found.keys(), " (missing)")
    return [name + remark for name, remark in remarks.items() if recorded.get(name) != found.get(name)]


def _recorded(run: Run, model: str) -> tuple[str, dict[str, float]]:
    """What the run measured of this kind of model: of the adapter (or the whole model), or of the merged model."""
    from egup_trainer.modeling.loading import is_adapter

    when = MERGED if run.adapter is not None and not is_adapter(model) else AFTER
    measured = run.probability.get(when)
    if not isinstance(measured, dict):
        raise ConfigError(
            got=f"{model}, which is not an adapter, with the record of an adapter that was not merged",
            expected="the adapter's folder as --model",
            fix="name it, or unlearn with --merge",
        )
    return when, measured


def _measure(args: VerifyArguments, model_config: Any, run: Run, mixed_precision: str) -> dict[str, float]:
    from accelerate import Accelerator

    from egup_trainer.modeling.loading import load_tokenizer
    from egup_trainer.modeling.probability import probabilities_of

    model = str(args.model)
    tokenizer = load_tokenizer(model, revision=model_config.model_revision)
    datasets = _read_rows(args, run, tokenizer)
    # A merged model was measured without autocast, as it will be loaded by others.
    accelerator = Accelerator(cpu=args.use_cpu, mixed_precision=mixed_precision)
    return probabilities_of(
        load_on_device(model, model_config, accelerator),
        tokenizer,
        datasets,
        seed=run.reading.seed,
        batch_size=args.per_device_eval_batch_size,
        accelerator=accelerator,
    )


def _read_rows(args: VerifyArguments, run: Run, tokenizer: Any) -> dict[str, Any]:
    """The rows of the run, tokenized; other rows are refused."""
    from egup_trainer.data.overlap import keep_apart
    from egup_trainer.modeling.probability import MOST_ROWS
    from egup_trainer.records.facts import fingerprint

    datasets, read = dict[str, Any](), _reader(args, run, tokenizer)
    earlier = [read(source, "earlier forget") for source in args.earlier_forget or []]
    moved = {fingerprint(rows, secret): rows for rows in earlier for secret in run.secrets}
    kept = ("retain", "proxy")  # last, since rows of the other sets may have been left out of them
    for name in sorted(run.sources, key=lambda each: each in kept):
        is_earlier = name not in ("forget", *kept)
        rows = moved.get(run.rows[name]["fingerprint"]) if is_earlier else None
        if rows is None:
            rows = read(getattr(args, name, None) or run.sources[name], name)
        if run.reading.drop_overlap and name in kept:
            for other in datasets.keys() - kept if name == "retain" else ("forget",):
                rows = keep_apart(datasets[other], f"{other} set", rows, f"{name} set", drop=True)
        _refuse_other_rows(rows, run, name, is_earlier)
        if len(rows) > MOST_ROWS:
            print(f"{MOST_ROWS} of the {len(rows)} {name} rows are measured, sampled with the run's seed.")
        datasets[name] = rows
    return {name: datasets[name] for name in run.sources}


def _reader(args: VerifyArguments, run: Run, tokenizer: Any) -> Callable[[str, str], Any]:
    """Reads the rows of a source under a name, as the run did."""
    from egup_trainer.data.rendering import Template
    from egup_trainer.data.schema import OnLongRow
    from egup_trainer.data.template_inputs import TemplateInputs
    from egup_trainer.data.tokenization import tokenize

    reading = run.reading
    args = replace(args, data_dir=args.data_dir or run.data_dir, columns=args.columns or run.columns)
    markers = Template.marked(reading.user_marker, reading.assistant_marker, reading.template_date)

    def read(source: str, name: str) -> Any:
        return tokenize(
            args.read(source),
            tokenizer,
            name=f"{name} set",
            max_length=reading.max_length,
            template=TemplateInputs.of(reading).apply(markers),
            on_long_row=choose(OnLongRow, reading.on_long_row, "on_long_row"),
            progress=not args.disable_tqdm,
        )

    return read


def _refuse_other_rows(rows: Any, run: Run, name: str, is_earlier: bool) -> None:
    """Raises `DataError` for rows that are not those of the run's set `name`."""
    from egup_trainer.records.facts import fingerprint

    expected = run.rows[name]["fingerprint"]
    prints = [fingerprint(rows, secret) for secret in (run.secrets if is_earlier else run.secrets[:1])]
    if expected not in prints:
        raise DataError(
            got=f"{name} rows of fingerprint {prints[0]}",
            expected=f"those of the run, of fingerprint {expected}",
            fix=f"give all of them, in their order, as --{'earlier_forget' if is_earlier else name}",
        )


COMMAND = Command(
    "verify",
    "measure a saved model again, and say whether it gives the numbers of its run",
    run,
    options=lambda: [VerifyArguments, model_config()],
    required=("record", "model"),
    shown=("forget", "retain", "proxy", "earlier_forget", "columns", "tolerance", "use_cpu", "load_in_4bit", "dtype"),
)
