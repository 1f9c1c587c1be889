"""`egup verify`: whether a saved model has the files of its run, and whether it gives the numbers that it recorded."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from egup_trainer.cli.common import (
    RunArguments,
    SourceArguments,
    load_on_device,
    one_line_errors,
    parse,
    quiet_libraries,
    refuse_lora_flags,
    require,
)
from egup_trainer.cli.run_file import MODEL_FILES, digests_of
from egup_trainer.errors import ConfigError, DataError, check_range, choose
from egup_trainer.records.io import read_run
from egup_trainer.records.outcome import AFTER, MERGED
from egup_trainer.records.schema import Run


@dataclass
class VerifyArguments(SourceArguments, RunArguments):
    """The record, the model, and the rows."""

    record: str | None = field(
        default=None, metadata={"help": "OUTPUT_DIR/_run.json of `egup unlearn`; the flag's name may be left out."}
    )
    model: str | None = field(default=None, metadata={"help": "The saved model: its folder or hub id."})
    forget: str | None = field(default=None, metadata={"help": "Rows to forget, if they lie elsewhere by now."})
    retain: str | None = field(default=None, metadata={"help": "Rows to keep, alike."})
    proxy: str | None = field(default=None, metadata={"help": "Proxies, alike."})
    earlier_forget: list[str] | None = field(
        default=None, metadata={"help": "Rows of earlier requests, alike: the files of all that have moved."}
    )
    tolerance: float = field(
        default=1e-3, metadata={"help": "How far a number may be from the recorded one, as a share of it."}
    )
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Rows in a batch, of up to 256 tokens."})


def main(argv: list[str]) -> int:
    """Compares files and numbers with the record.

    Returns:
        0 if files and numbers are equal, 1 if one of them is not. What cannot be checked is an error (exit code 2).
    """
    quiet_libraries()
    from trl import ModelConfig

    args, model_config = parse("verify", [VerifyArguments, ModelConfig], _with_record(argv))
    require("verify", record=args.record, model=args.model)
    check_range(args, ("tolerance",), low=0)
    check_range(args, ("per_device_eval_batch_size",), low=1, whole=True)
    refuse_lora_flags(model_config)
    run = read_run(Path(args.record))
    when, recorded = _recorded(run, args.model)
    changes = _changes(run.files[when], _files_of(args, model_config))
    _print_files(changes, len(run.files[when]))
    # A merged model was measured without autocast, as those who load it will.
    if when == AFTER:
        _load_as_then(model_config, run)
    try:
        found = _measure(args, model_config, run, "no" if when == MERGED else run.mixed_precision)
    except DataError as error:
        if not changes:
            raise
        print(f"Numbers not measured: {error}")  # another tokenizer or template reads the rows otherwise
        return 1
    _print_numbers(when, recorded, found)
    apart = [name for name in recorded if not abs(found[name] - recorded[name]) <= args.tolerance * recorded[name]]
    if apart:
        print(f"Numbers not equal: {', '.join(apart)}. Is it the model of this run?")
    else:
        print(f"Numbers equal, within a share of {args.tolerance:g}.")
    return 1 if apart or changes else 0


def _with_record(argv: list[str]) -> list[str]:
    """The words with --record before the record, where that stands without it."""
    takes_no_value = ("--use_cpu", "--disable_tqdm")
    before = ["", *argv]
    alone = [
        place
        for place, word in enumerate(argv)
        if not word.startswith("-") and (not before[place].startswith("--") or before[place] in takes_no_value)
    ]
    if not alone or any(word.partition("=")[0] == "--record" for word in argv):
        return argv
    place = 0 if alone[0] == 0 else alone[-1]
    return ["--record", argv[place], *argv[:place], *argv[place + 1 :]]


def _files_of(args: VerifyArguments, model_config: Any) -> dict[str, str]:
    """Digests of the model's files; those of a hub model are fetched."""
    folder = Path(str(args.model))
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        from egup_trainer.modeling.loading import load_tokenizer

        name, revision = str(args.model), model_config.model_revision
        load_tokenizer(name, revision=revision)  # says what is wrong with a name that is none
        with one_line_errors():
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES)))
    return digests_of(folder, progress=not args.disable_tqdm)


def _changes(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    """The names of files that differ, with a word for those that are on one side alone."""
    words = {**dict.fromkeys(recorded, ""), **dict.fromkeys(found.keys() - recorded.keys(), " (new)")}
    words |= dict.fromkeys(recorded.keys() - found.keys(), " (missing)")
    return [name + word for name, word in words.items() if recorded.get(name) != found.get(name)]


def _print_files(changes: list[str], count: int) -> None:
    if changes:
        print(f"Files changed: {', '.join(changes)}.")
    else:
        print(f"Files equal: {count} of {count}.")


def _recorded(run: Run, model: str) -> tuple[str, dict[str, float]]:
    """What the run measured of this kind of model: of the adapter (or the whole model), or of the merged one."""
    from egup_trainer.modeling.loading import is_adapter

    when = MERGED if run.adapter is not None and not is_adapter(model) else AFTER
    measured = run.probability.get(when)
    if not isinstance(measured, dict):
        raise ConfigError(
            got=f"{model}, which is no adapter, and a record of one that was not merged",
            expected="the adapter's folder as --model",
            fix="name it, or unlearn with --merge",
        )
    return when, measured


def _load_as_then(model_config: Any, run: Run) -> None:
    """Loads the weights as the run did, where the flags do not say otherwise."""
    for option in fields(model_config):
        if option.name in run.loading and getattr(model_config, option.name) == option.default:
            setattr(model_config, option.name, run.loading[option.name])


def _measure(args: VerifyArguments, model_config: Any, run: Run, mixed_precision: str) -> dict[str, float]:
    from accelerate import Accelerator

    from egup_trainer.modeling.loading import load_tokenizer
    from egup_trainer.modeling.probability import probabilities_of

    model = str(args.model)
    tokenizer = load_tokenizer(model, revision=model_config.model_revision)
    datasets = _read_rows(args, run, tokenizer)
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
    """The rows of the run, tokenized; others are refused."""
    from egup_trainer.data.overlap import keep_apart
    from egup_trainer.data.rendering import Template, today
    from egup_trainer.data.schema import OnLongRow
    from egup_trainer.data.tokenization import tokenize
    from egup_trainer.modeling.probability import MOST_ROWS
    from egup_trainer.records.facts import fingerprint

    reading, datasets = run.reading, dict[str, Any]()
    args = replace(args, data_dir=args.data_dir or run.data_dir, columns=args.columns or run.columns)
    template = Template(reading.user_marker, reading.assistant_marker, date=reading.template_date or today())

    def read(source: str, name: str) -> Any:
        return tokenize(
            args.read(source),
            tokenizer,
            name=f"{name} set",
            max_length=reading.max_length,
            template=template,
            on_long_row=choose(OnLongRow, reading.on_long_row, "on_long_row"),
            progress=not args.disable_tqdm,
        )

    own = run.secrets[0]
    others = [read(each, "earlier forget") for each in args.earlier_forget or []]
    moved = {fingerprint(rows, secret): rows for rows in others for secret in run.secrets}
    kept = ("retain", "proxy")  # last: rows of the other sets may have been left out of them
    for name in sorted(run.sources, key=lambda each: each in kept):
        source = run.sources[name]
        expected, is_earlier = run.rows[name]["fingerprint"], name not in ("forget", *kept)
        rows = moved.get(expected) if is_earlier else None
        rows = read(getattr(args, name, None) or source, name) if rows is None else rows
        if reading.drop_overlap and name in kept:
            for other in datasets.keys() - kept if name == "retain" else ("forget",):
                rows = keep_apart(datasets[other], f"{other} set", rows, f"{name} set", drop=True)
        prints = [fingerprint(rows, secret) for secret in (run.secrets if is_earlier else [own])]
        if expected not in prints:
            raise DataError(
                got=f"{name} rows of fingerprint {prints[0]}",
                expected=f"the run's, {expected}",
                fix=f"give them as --{'earlier_forget' if is_earlier else name}, all of them and in their order",
            )
        if len(rows) > MOST_ROWS:
            print(f"Of the {len(rows)} {name} rows {MOST_ROWS} are measured, drawn with the run's seed.")
        datasets[name] = rows
    return {name: datasets[name] for name in run.sources}


def _print_numbers(when: str, recorded: dict[str, float], found: dict[str, float]) -> None:
    """A table of both."""
    from rich.table import Table

    from egup_trainer.cli.terminal import terminal

    table = Table(title="Probability of answers", title_justify="left")
    for heading in ("rows", f"recorded ({when})", "now", "off by"):
        table.add_column(heading, justify="left" if heading == "rows" else "right")
    for name, value in recorded.items():
        off = abs(found[name] - value) / value if value else float(found[name] != value)
        table.add_row(name, f"{value:.6g}", f"{found[name]:.6g}", f"{off:.1e}")
    terminal().print(table)
