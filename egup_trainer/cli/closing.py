"""The end of `egup unlearn`: the merged model, and the record that others can check and repeat the run by."""

import gc
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from egup_trainer.errors import ConfigError, DataError, ModelError
from egup_trainer.ledger import Request, read_ledger, write_ledger
from egup_trainer.outcome import IN_4BIT, MERGED

RUN_NAME = "_run.json"
"""The whole record, with command and paths: readable by the user alone, and left out of what is pushed to a hub."""
READING = ("max_length", "user_marker", "assistant_marker", "seed")
"""Options that decide which numbers rows and weights give."""


def refuse_to_merge_nothing(model_config: Any) -> None:
    """Raises `ConfigError` if what will be trained is a stand-alone model already."""
    from egup_trainer.modeling.loading import is_adapter

    if not model_config.use_peft and not is_adapter(model_config.model_name_or_path):
        raise ConfigError(
            got="--merge without an adapter",
            expected="an adapter to merge into its base model: all weights are trained, and saved as they are",
            fix="leave out --merge, or add --use_peft",
        )


def merge_and_measure(
    args: Any, tokenizer: Any, datasets: dict[str, Any], model_init_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Writes the merged model, and measures its files: as they are, and with their weights in four bits.

    Returns:
        Probability of each set of rows by `MERGED` and `IN_4BIT`; of the latter, why it could not be measured.
    """
    from egup_trainer.audit.quantization import Bits, quantised_copy
    from egup_trainer.modeling.loading import load_model
    from egup_trainer.modeling.merging import save_merged
    from egup_trainer.modeling.probability import probabilities_of

    gc.collect()  # what the trainer held
    folder = Path(args.output_dir) / MERGED
    save_merged(args.output_dir, folder, **model_init_kwargs)
    tokenizer.save_pretrained(folder)
    model = load_model(str(folder), dtype=model_init_kwargs.get("dtype") or "float32").to(args.device)
    measure = {"seed": args.seed, "batch_size": args.per_device_eval_batch_size}
    found: dict[str, Any] = {MERGED: probabilities_of(model, tokenizer, datasets, **measure)}
    try:
        found[IN_4BIT] = probabilities_of(quantised_copy(model, Bits.FOUR), tokenizer, datasets, **measure)
    except (ImportError, ModelError, RuntimeError, ValueError) as error:
        found[IN_4BIT] = f"not measured: {error}"
    return found


def write_records(
    args: Any,
    probability: dict[str, Any],
    datasets: dict[str, Any],
    *,
    argv: list[str],
    model: str,
    sources: dict[str, str],
) -> None:
    """Completes the records beside the saved models, and writes the whole one that `egup verify` reads.

    Args:
        args: of the run.
        probability: of each set of rows, by when it was measured.
        datasets: the rows, by set.
        argv: the command's words.
        model: folder or hub id of the model before unlearning.
        sources: where the rows came from, by set.
    """
    from egup_trainer.evaluation.evaluation import write_private
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
        command=shlex.join(["egup", "unlearn", *argv]),
        model_name_or_path=model,
        sources=sources,
        reading={name: getattr(args, name) for name in READING},
        mixed_precision="bf16" if args.bf16 else "fp16" if args.fp16 else "no",
    )
    text = (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode()
    for each in (folder, folder / MERGED) if MERGED in probability else (folder,):
        write_private(each / RUN_NAME, text)


def read_run(path: Path) -> dict[str, Any]:
    """The whole record of a run.

    Raises:
        DataError: the file is missing, cut short, or something else.
    """
    from egup_trainer.model_card import RECORD_SCHEMA

    expected = "the file _run.json that `egup unlearn` writes into its output folder"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(got=f"no readable file at {path}", expected=expected, fix="check the path") from error
    except ValueError as error:
        raise DataError(got=f"{path}, which is no whole JSON file", expected=expected, fix="get it anew") from error
    lacking = [name for name in ("probability", "sources", "reading", "rows") if not isinstance(_of(run, name), dict)]
    if _of(run, "schema_version") != RECORD_SCHEMA or lacking:
        what = f"without {', '.join(lacking)}" if lacking else f"of schema version {_of(run, 'schema_version')}"
        raise DataError(got=f"{path} {what}", expected=f"{expected}, version {RECORD_SCHEMA}", fix="name such a file")
    return run


def _of(run: Any, name: str) -> Any:
    return run.get(name) if isinstance(run, dict) else None


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
