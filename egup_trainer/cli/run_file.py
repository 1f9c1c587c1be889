"""The whole record of a run, which `egup verify` and later runs read: command, rows, versions, machine, numbers."""

import json
import shlex
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from egup_trainer.errors import DataError
from egup_trainer.files import write_file
from egup_trainer.ledger import Request, read_ledger, write_ledger
from egup_trainer.outcome import AFTER, MERGED
from egup_trainer.secrecy import HIDDEN, is_secret, secrets_in, without_secrets
from egup_trainer.typed import check_types

RUN_NAME = "_run.json"
"""Readable by the user alone, since it names paths; left out of what is pushed to a hub, as all `_*` is."""
LOADING = ("dtype", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")
"""Flags that decide which weights a model has."""


@dataclass(frozen=True)
class Reading:
    """Options that decide which rows are read, and how."""

    max_length: int
    user_marker: str
    assistant_marker: str
    template_date: str | None
    seed: int


@dataclass(frozen=True)
class Run:
    """What of a record is read back.

    Args:
        adapter: kind and sizes of the adapter, or None if all weights were trained.
        probability: by when it was measured, then by set; text where it could not be.
        sources: where the rows came from, by set.
        rows: number and fingerprint, by set.
        reading: how rows were read.
        loading: how the model was loaded, see `LOADING`.
        mixed_precision: "no", "bf16" or "fp16".
        data_dir: as for `load_rows`.
    """

    adapter: dict[str, Any] | None
    probability: dict[str, dict[str, float] | str]
    sources: dict[str, str]
    rows: dict[str, dict[str, Any]]
    reading: Reading
    loading: dict[str, bool | str | None]
    mixed_precision: str
    data_dir: str | None


def write_records(
    args: Any,
    probability: dict[str, Any],
    datasets: dict[str, Any],
    *,
    argv: list[str],
    model_config: Any,
    sources: dict[str, str],
    data_dir: str | None,
) -> None:
    """Completes the records beside the saved models, and writes the whole one.

    Args:
        args: of the run.
        probability: of each set of rows, by when it was measured.
        datasets: the rows, by set.
        argv: the command's words.
        model_config: TRL's `ModelConfig` of the run.
        sources: where the rows came from, by set.
        data_dir: as for `load_rows`.
    """
    from egup_trainer.model_card import model_card, write_model_card
    from egup_trainer.report.run_record import run_facts
    from egup_trainer.trainer.record import add_to_record, facts_of_rows, write_record

    folder = Path(args.output_dir)
    facts = {name: facts_of_rows(rows) for name, rows in datasets.items()}
    record = add_to_record(folder, probability=probability, rows=facts)
    requests = _with_probabilities(read_ledger(folder), probability, facts)
    write_ledger(folder, requests)
    if MERGED in probability:
        merged = record | {"is_merged": True}
        write_record(merged, folder / MERGED)
        write_ledger(folder / MERGED, requests)
        write_model_card(folder / MERGED, model_card(merged, None, folder.resolve().name))
    whole = record | run_facts(
        command=shlex.join(["egup", "unlearn", *_without_secrets(argv, secrets_in(vars(args)))]),
        config_file=_config_file(argv),
        model_name_or_path=model_config.model_name_or_path,
        sources={name: _absolute(source) for name, source in sources.items()},
        data_dir=None if data_dir is None else _absolute(data_dir),
        reading={option.name: getattr(args, option.name) for option in fields(Reading)},
        loading={name: getattr(model_config, name) for name in LOADING},
        mixed_precision="bf16" if args.bf16 else "fp16" if args.fp16 else "no",
    )
    write_file(folder / RUN_NAME, json.dumps(whole, indent=2, allow_nan=False) + "\n")


def forget_last_run(folder: Path) -> None:
    """Removes what an earlier run in the folder wrote of its model, which the next one replaces."""
    (folder / RUN_NAME).unlink(missing_ok=True)
    if is_merged(folder / MERGED):
        shutil.rmtree(folder / MERGED)


def is_merged(folder: str | Path) -> bool:
    """Whether a merged model of `egup unlearn` lies there."""
    from egup_trainer.model_card import read_record

    return bool((read_record(folder) or {}).get("is_merged"))


def read_run(path: Path) -> Run:
    """Reads a record back.

    Raises:
        DataError: the file is missing, cut short, or something else.
    """
    from egup_trainer.model_card import RECORD_SCHEMA

    expected = "the file _run.json that `egup unlearn` writes into its output folder"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(got=f"no readable file at {path}", expected=expected, fix="check the path") from error
    except ValueError as error:
        raise DataError(got=f"{path}, which is no whole JSON file", expected=expected, fix="get it anew") from error
    try:
        if document["schema_version"] != RECORD_SCHEMA:
            raise TypeError("schema_version")
        reading = Reading(**{option.name: document["reading"][option.name] for option in fields(Reading)})
        run = Run(**{option.name: document[option.name] for option in fields(Run)} | {"reading": reading})
        check_types(run)
        _check_parts(run)
    except (KeyError, TypeError) as error:
        what = str(error).strip("'").partition(" of ")[0] or "something"
        raise DataError(
            got=f"{path}, whose {what} is missing or of another kind",
            expected=f"{expected}, version {RECORD_SCHEMA}",
            fix="name such a file",
        ) from error
    return run


def _check_parts(run: Run) -> None:
    """Raises `KeyError` where the parts of a record do not belong together."""
    for when in (AFTER, MERGED):
        measured = run.probability.get(when, {} if when == MERGED else None)
        if not isinstance(measured, dict) or ((measured or when == AFTER) and measured.keys() != run.sources.keys()):
            raise KeyError("probability")
    for name in run.sources:
        run.rows[name]["fingerprint"]


def _with_probabilities(
    requests: list[Request], probability: dict[str, Any], facts: dict[str, dict[str, Any]]
) -> list[Request]:
    """The ledger with what the last request's run measured of its rows and of those of earlier requests."""
    measured = {
        name: {when: values[name] for when, values in probability.items() if isinstance(values, dict)} for name in facts
    }
    earlier = {
        facts[name]["fingerprint"]: measured[name] for name in facts if name not in ("forget", "retain", "proxy")
    }
    return [*requests[:-1], replace(requests[-1], probability=measured["forget"], earlier=earlier)]


def _absolute(source: str) -> str:
    """A path that holds from any folder; a hub id or tofu:NAME as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _without_secrets(argv: list[str], secrets: list[str]) -> list[str]:
    """The words with *** for the values of tokens.

    Example:
        >>> _without_secrets(["--hub_token", "hf_x", "--hub_token=hf_x", "--seed", "1"], ["hf_x"])
        ['--hub_token', '***', '--hub_token=***', '--seed', '1']
    """
    for secret in secrets:
        argv = [word.replace(secret, HIDDEN) for word in argv]
    return argv


def _config_file(argv: list[str]) -> dict[str, Any]:
    """What the --config file says, without tokens."""
    import yaml

    words = [part for word in argv for part in word.split("=", 1)]
    if "--config" not in words:
        return {}
    text = Path(words[words.index("--config") + 1]).read_text(encoding="utf-8")
    options = (yaml.safe_load(text) or {}).items()
    return {name: without_secrets(value) for name, value in options if not is_secret(name)}
