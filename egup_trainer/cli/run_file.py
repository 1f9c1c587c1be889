"""The whole record of a run, which `egup verify` and later runs read: command, rows, versions, machine, numbers."""

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from egup_trainer.files import file_digest
from egup_trainer.records.io import read_ledger, read_record, read_secrets, write_ledger, write_record, write_run
from egup_trainer.records.judgments import AFTER, MERGED
from egup_trainer.records.redaction import credentials_in, is_credential, without_credentials, words_without
from egup_trainer.records.schema import LEDGER_NAME, RECORD_NAME, Reading, Request, RowFacts

LOADING = ("dtype", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")
"""Flags that decide which weights a model has."""
MODEL_FILES = (
    "*config.json",
    "*token*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "*.py",
    "chat_template*",
    "additional_chat_templates/*",
    "model*.safetensors*",
    "pytorch_model*.bin*",
    "adapter_model.*",
    "*/adapter_*",
    RECORD_NAME,
    LEDGER_NAME,
)
"""What transformers and PEFT read of a model's folder, and what tells of its requests."""


def write_records(
    args: Any,
    probability: dict[str, Any],
    datasets: dict[str, Any],
    *,
    model_config: Any,
    sources: dict[str, str],
    row_args: Any,
    config_file: dict[str, Any],
) -> None:
    """Completes the records beside the saved models, and writes the whole one.

    `probability` is by when it was measured; `datasets` and their `sources` are by set of rows; `config_file` is what
    `config_file_of` found when the run began.
    """
    from egup_trainer.records.facts import facts_of_rows, run_facts

    folder = Path(args.output_dir)
    secrets, requests = read_secrets(folder), read_ledger(folder)
    facts: dict[str, Any] = {name: facts_of_rows(rows, secrets[0]) for name, rows in datasets.items()}
    for number, request in enumerate(requests, start=1):
        if (name := earlier_name(number)) in facts:
            facts[name]["fingerprint"] = request.fingerprint
    record: Any = {**(read_record(folder) or {}), "probability": probability, "rows": facts}
    write_record(record, folder)
    requests = _with_probabilities(requests, probability, facts)
    write_ledger(folder, requests)
    if MERGED in probability:
        write_merged_records(record, requests, folder / MERGED, folder.resolve().name)
    models = {AFTER: folder, **({MERGED: folder / MERGED} if MERGED in probability else {})}
    whole = record | run_facts(
        command=shlex.join(words_without(credentials_in(vars(args)), row_args.argv)),
        config_file=config_file,
        model_name_or_path=model_config.model_name_or_path,
        sources={name: _absolute(source) for name, source in sources.items()},
        data_dir=None if row_args.data_dir is None else _absolute(row_args.data_dir),
        columns=row_args.columns,
        reading={option.name: getattr(args, option.name) for option in fields(Reading)},
        loading=_loading(args, model_config),
        mixed_precision=str(args.mixed_precision or "no"),  # that of the launcher, too
        secrets=secrets,
        files={when: digests_of(place, progress=not args.disable_tqdm) for when, place in models.items()},
    )
    write_run(whole, folder)


def _loading(args: Any, model_config: Any) -> dict[str, Any]:
    """What decides which weights the model has: the flags, and a dtype among other arguments of from_pretrained."""
    dtype = (args.model_init_kwargs or {}).get("dtype")
    flags = {name: getattr(model_config, name) for name in LOADING}
    return flags | ({"dtype": dtype} if isinstance(dtype, str) else {})


def write_merged_records(record: Any, requests: list[Request], folder: Path, name: str) -> None:
    """Writes record, ledger and card beside a merged model; both are those of the run that trained the adapter."""
    from egup_trainer.records.card import model_card, write_model_card

    merged = record | {"is_merged": True}
    write_record(merged, folder)
    write_ledger(folder, requests)
    write_model_card(folder, model_card(merged, None, name))


def load_as_recorded(model_config: Any, loading: dict[str, Any]) -> None:
    """Sets what decides which weights a model has as the run did, unless a flag says otherwise."""
    for option in fields(model_config):
        if option.name in loading and getattr(model_config, option.name) == option.default:
            setattr(model_config, option.name, loading[option.name])


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


def _with_probabilities(
    requests: list[Request], probability: dict[str, Any], facts: dict[str, RowFacts]
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
    """The absolute path of a file; a hub id or tofu:NAME stays as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def config_file_of(argv: list[str]) -> dict[str, Any]:
    """What the --config file says, without tokens."""
    import yaml

    words = [part for word in argv for part in word.split("=", 1)]
    if "--config" not in words:
        return {}
    text = Path(words[words.index("--config") + 1]).read_text(encoding="utf-8")
    options = (yaml.safe_load(text) or {}).items()
    return {name: without_credentials(value) for name, value in options if not is_credential(name)}
