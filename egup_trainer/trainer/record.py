"""The record of an unlearning run, kept beside the saved model: what was done with what, and no text of any row."""

import hashlib
import hmac
import json
from dataclasses import fields
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from egup_trainer.data.tokenization import RowDataset
from egup_trainer.files import write_file
from egup_trainer.model_card import RECORD_NAME, RECORD_SCHEMA, read_record
from egup_trainer.modeling.base_weights import weights_digest
from egup_trainer.trainer.config import EGUPConfig, UnlearnConfig
from egup_trainer.versions import package_versions

__all__ = ["RECORD_NAME", "add_to_record", "fingerprint", "make_record", "read_record", "saved_step", "write_record"]

_ROW_SETS = ("forget", "retain", "proxy")
_EGUP_PARTS = ("inter_entanglement", "intra_entanglement", "proxy_constraint")
_ALWAYS_RECORDED = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "seed",
)
# These stand in the record under names of their own, or may name a folder of this machine.
_LEFT_OUT = {"objective", "retain_loss", "clreg_weight", *_EGUP_PARTS}
_LEFT_OUT |= {"card_author", "idk_answers", "scan_cache_dir", "model_init_kwargs", "overwrite_output_dir"}


def make_record(trainer: Any) -> dict[str, Any]:
    """The record of a run, as plain values for JSON.

    `model` is what was unlearned: a hub id, or the last part of a local folder's path (`is_local`), or null. `egup`
    says which parts were at work: a proxy constraint without proxies is not. `reference` is how the model before
    unlearning was kept, see `ReferenceKind`. `options` holds the arguments that differ
    from the defaults of `UnlearnConfig` or `EGUPConfig`, and always the learning rate, the passes, the sizes that make
    up a step (world_size = processes) and the seed. `rows` has number and `fingerprint` of each set.

    Args:
        trainer: an `UnlearnTrainer`.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    sets: dict[str, Any] = {name: getattr(trainer, f"{name}_rows", None) for name in _ROW_SETS}
    sets = {name: rows for name, rows in sets.items() if rows is not None}
    parts = {name: bool(getattr(args, name, False)) for name in _EGUP_PARTS}
    return {
        "schema_version": RECORD_SCHEMA,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "author": args.card_author,
        "model": _model_before(model),
        "adapter": _adapter_of(model),
        "trainer": type(trainer).__name__,
        "objective": args.objective,
        "retain_loss": args.retain_loss,
        "reference": trainer.before.reference.kind.value,
        "egup": {**parts, "proxy_constraint": parts["proxy_constraint"] and "proxy" in sets},
        "clreg_weight": getattr(args, "clreg_weight", 0.0),
        "options": _options(args),
        "steps": saved_step(trainer),
        "rows": {name: facts_of_rows(rows, trainer.secrets[0]) for name, rows in sets.items()},
        "versions": package_versions(),
    }


def write_record(record: dict[str, Any], folder: str | Path) -> None:
    """Writes the record into a saved model's folder."""
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_file(Path(folder) / RECORD_NAME, text, private=False)


def add_to_record(folder: str | Path, **facts: Any) -> dict[str, Any]:
    """Adds what was found out after training to the record in a saved model's folder.

    Returns:
        The whole record.
    """
    record = {**(read_record(folder) or {}), **facts}
    write_record(record, folder)
    return record


def facts_of_rows(rows: RowDataset, secret: str) -> dict[str, Any]:
    """How many rows there are, and their fingerprint; and how many were `cut` or read `in_windows`, if any were."""
    long_rows = {name: count for name in ("cut", "in_windows") if (count := getattr(rows, name))}
    return {"rows": len(_sources(rows)), "fingerprint": fingerprint(rows, secret), **long_rows}


def fingerprint(rows: RowDataset, secret: str) -> str:
    """HMAC-SHA256 of the whole rows in their order, as the tokenizer makes them: its first 16 hexadecimal digits.

    It depends neither on batches and padding nor on where long rows were cut. Who has the rows and the secret can
    confirm it; without the secret, even a set of one short row cannot be found by guessing.

    Args:
        rows: tokenized rows.
        secret: of the run, see `egup_trainer.ledger.read_secrets`.
    """
    return hmac.new(secret.encode(), b"".join(key for _, key in _sources(rows)), hashlib.sha256).hexdigest()[:16]


def saved_step(trainer: Any) -> int:
    """The optimizer step that the model is from: the last one, or the best if that was put back at the end."""
    args, state = trainer.args, trainer.state
    if args.load_best_model_at_end and not trainer.is_in_train and state.best_global_step:
        return state.best_global_step
    return state.global_step


def _sources(rows: RowDataset) -> list[tuple[int, bytes]]:
    """Number and key of each row; a long text that makes several samples counts once."""
    return list(dict.fromkeys((row.source.number, row.source.key) for row in rows.rows))


def _options(args: UnlearnConfig) -> dict[str, Any]:
    config_class = EGUPConfig if isinstance(args, EGUPConfig) else UnlearnConfig
    training = {option.name for option in fields(TrainingArguments)}
    own = [option for option in fields(config_class) if option.name not in training | _LEFT_OUT]
    changed = [option.name for option in own if getattr(args, option.name) != option.default]
    limit = ("max_steps",) if args.max_steps > 0 else ()
    values = {name: getattr(args, name) for name in (*_ALWAYS_RECORDED, *limit, *changed)}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def _model_before(model: Any) -> dict[str, Any]:
    name = getattr(getattr(model, "config", None), "_name_or_path", None) or None
    is_local = name is None or not _is_hub_id(name)
    return {"name": Path(name).name if name and is_local else name, "is_local": is_local}


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _adapter_of(model: Any) -> dict[str, Any] | None:
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return None
    config = model.active_peft_config
    sizes = {name: getattr(config, name) for name in ("r", "lora_alpha") if hasattr(config, name)}
    several = {"active": list(model.active_adapters)} if len(model.peft_config) > 1 else {}
    base = weights_digest(config.base_model_name_or_path or "")
    return {"type": config.peft_type.value, **sizes, **several, **({} if base is None else {"base": base})}
