"""The whole record of a run, which `egup verify` and later runs read: command, rows, versions, machine, numbers."""

import json
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from egup_trainer.errors import DataError
from egup_trainer.files import file_digest, refuse_unfinished, write_file
from egup_trainer.ledger import LEDGER_NAME, RUN_NAME, Request, read_ledger, read_secrets, write_ledger
from egup_trainer.model_card import RECORD_NAME
from egup_trainer.outcome import AFTER, MERGED
from egup_trainer.secrecy import HIDDEN, is_secret, secrets_in, without_secrets
from egup_trainer.typed import check_types

LOADING = ("dtype", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")
"""Flags that decide which weights a model has."""
MODEL_FILES: tuple[str, ...] = (
    "*config.json",
    "*token*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "*.py",
)
MODEL_FILES += ("chat_template*", "additional_chat_templates/*", "model*.safetensors*", "pytorch_model*.bin*")
MODEL_FILES += ("adapter_model.*", "*/adapter_*", RECORD_NAME, LEDGER_NAME)
"""What transformers and PEFT read of a model's folder, and what tells of its requests."""
_EXPECTED = "the file _run.json that `egup unlearn` writes into its output folder"


@dataclass(frozen=True)
class Reading:
    """Options that decide which rows are read, and how."""

    max_length: int
    on_long_row: str
    user_marker: str
    assistant_marker: str
    template_date: str | None
    seed: int
    drop_overlap: bool


@dataclass(frozen=True)
class Run:
    """What of a record is read back.

    Args:
        adapter: kind and sizes of the adapter, or None if all weights were trained.
        probability: by when it was measured, then by set; text where it could not be.
        sources: where the rows came from, by set.
        rows: number and fingerprint, by set.
        secrets: what the fingerprints are keyed by: the run's own, then those of earlier requests.
        files: SHA-256 of the saved model's files by name, by when it was measured; see `digests_of`.
        reading: how rows were read.
        loading: how the model was loaded, see `LOADING`.
        mixed_precision: "no", "bf16" or "fp16".
        data_dir: as for `load_rows`.
        columns: the flag --columns of the run.
    """

    adapter: dict[str, Any] | None
    probability: dict[str, dict[str, float] | str]
    sources: dict[str, str]
    rows: dict[str, dict[str, Any]]
    secrets: list[str]
    files: dict[str, dict[str, str]]
    reading: Reading
    loading: dict[str, bool | str | None]
    mixed_precision: str
    data_dir: str | None
    columns: str | None


def write_records(
    args: Any,
    probability: dict[str, Any],
    datasets: dict[str, Any],
    *,
    argv: list[str],
    model_config: Any,
    sources: dict[str, str],
    row_args: Any,
) -> None:
    """Completes the records beside the saved models, and writes the whole one.

    Args:
        args: of the run.
        probability: of each set of rows, by when it was measured.
        datasets: the rows, by set.
        argv: the command's words.
        model_config: TRL's `ModelConfig` of the run.
        sources: where the rows came from, by set.
        row_args: the flags `data_dir` and `columns`.
    """
    from egup_trainer.model_card import model_card, write_model_card
    from egup_trainer.report.run_record import run_facts
    from egup_trainer.trainer.record import add_to_record, facts_of_rows, write_record

    folder = Path(args.output_dir)
    secrets, requests = read_secrets(folder), read_ledger(folder)
    facts = {name: facts_of_rows(rows, secrets[0]) for name, rows in datasets.items()}
    for number, request in enumerate(requests, start=1):
        if (name := earlier_name(number)) in facts:
            facts[name]["fingerprint"] = request.fingerprint
    record = add_to_record(folder, probability=probability, rows=facts)
    requests = _with_probabilities(requests, probability, facts)
    write_ledger(folder, requests)
    if MERGED in probability:
        merged = record | {"is_merged": True}
        write_record(merged, folder / MERGED)
        write_ledger(folder / MERGED, requests)
        write_model_card(folder / MERGED, model_card(merged, None, folder.resolve().name))
    models = {AFTER: folder, **({MERGED: folder / MERGED} if MERGED in probability else {})}
    whole = record | run_facts(
        command=shlex.join(["egup", "unlearn", *_without_secrets(argv, secrets_in(vars(args)))]),
        config_file=_config_file(argv),
        model_name_or_path=model_config.model_name_or_path,
        sources={name: _absolute(source) for name, source in sources.items()},
        data_dir=None if row_args.data_dir is None else _absolute(row_args.data_dir),
        columns=row_args.columns,
        reading={option.name: getattr(args, option.name) for option in fields(Reading)},
        loading={name: getattr(model_config, name) for name in LOADING},
        mixed_precision="bf16" if args.bf16 else "fp16" if args.fp16 else "no",
        secrets=secrets,
        files={when: digests_of(place, progress=not args.disable_tqdm) for when, place in models.items()},
    )
    write_file(folder / RUN_NAME, json.dumps(whole, indent=2, allow_nan=False) + "\n")


def earlier_name(number: int) -> str:
    """What the rows of an earlier request are called, by its number from 1."""
    return f"earlier {number}"


def digests_of(folder: Path, *, progress: bool) -> dict[str, str]:
    """SHA-256 of the files in a saved model's folder that decide what the model says or what it was, by name.

    Weights, configurations, tokenizer, chat template, code, record and ledger are among them; the model card, which
    later evaluations change, is not.
    """
    from tqdm.auto import tqdm

    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    first = {path: path.relative_to(folder).parts[0] for path in paths}
    paths = [path for path in paths if first[path] != MERGED and not first[path].startswith(("checkpoint-", "_"))]
    digests = {}
    size = sum(path.stat().st_size for path in paths)
    with tqdm(total=size, desc="Digests of the files", unit="B", unit_scale=True, disable=not progress) as bar:
        for path in paths:
            digests[path.relative_to(folder).as_posix()] = file_digest(path, bar.update)
    return digests


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

    refuse_unfinished(path.parent)
    document = _read_json(path)
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
            expected=f"{_EXPECTED}, version {RECORD_SCHEMA}",
            fix="name such a file",
        ) from error
    return run


def read_sources(path: Path) -> tuple[dict[str, str], str | None]:
    """Where the rows of a run came from, by set, and its --columns; nothing if the run was one in Python.

    Raises:
        DataError: as `read_run`.
    """
    if "sources" not in _read_json(path):
        return {}, None
    run = read_run(path)
    return run.sources, run.columns


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(got=f"no readable file at {path}", expected=_EXPECTED, fix="check the path") from error
    except ValueError as error:
        raise DataError(got=f"{path}, which is no whole JSON file", expected=_EXPECTED, fix="get it anew") from error


def _check_parts(run: Run) -> None:
    """Raises `KeyError` where the parts of a record do not belong together."""
    for when in (AFTER, MERGED) if run.probability.get(MERGED) else (AFTER,):
        measured = run.probability.get(when)
        if (
            not isinstance(measured, dict)
            or "forget" not in measured
            or measured.keys() != run.sources.keys()
            or not all(0 <= value <= 1 for value in measured.values())
        ):
            raise KeyError("probability")
        if not run.files.get(when):
            raise KeyError("files")
    if not run.secrets:
        raise KeyError("secrets")
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
