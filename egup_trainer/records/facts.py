"""Collects the facts of a run: rows, model, options, versions and machine. They contain no text of any row."""

import hashlib
import hmac
import os
import platform
from dataclasses import MISSING, Field, fields
from datetime import datetime, timezone
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egup_trainer.records.schema import ADAPTER_OFF, RECORD_SCHEMA, ModelFacts, RowFacts, RunRecord

if TYPE_CHECKING:
    from egup_trainer.data.tokenization import RowDataset

_PACKAGES = ("egup-trainer", "torch", "transformers", "accelerate", "peft", "trl", "datasets", "bitsandbytes")
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
# The record has these under other keys, or they may name a folder of this machine.
_LEFT_OUT = {
    *_EGUP_PARTS,
    "objective",
    "retain_loss",
    "clreg_weight",
    "card_author",
    "idk_answers",
    "proxy_model",
    "scan_cache_dir",
    "model_init_kwargs",
    "overwrite_output_dir",
    "verdict",
}


def make_record(trainer: Any) -> RunRecord:
    """The record of the run of an `UnlearnTrainer`."""
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    sets = {name: rows for name in _ROW_SETS if (rows := getattr(trainer, f"{name}_rows", None)) is not None}
    active = [component.name for component in trainer.components if component.acts_by]
    others = [name for name in active if name not in (*_EGUP_PARTS, "clreg")]
    record: RunRecord = {
        "schema_version": RECORD_SCHEMA,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "author": args.card_author,
        "model": _model_facts(getattr(getattr(model, "config", None), "_name_or_path", None) or None),
        "adapter": _adapter_of(model),
        "trainer": type(trainer).__name__,
        "objective": args.objective,
        "retain_loss": args.retain_loss,
        "reference": trainer.reference.kind.value,
        "egup": {name: name in active for name in _EGUP_PARTS},
        "clreg_weight": getattr(args, "clreg_weight", 0.0),
        "options": _options(args),
        "steps": saved_step(trainer),
        "rows": {name: facts_of_rows(rows, trainer.secrets[0]) for name, rows in sets.items()},
        "versions": package_versions(),
    }
    if trainer.verdict is not None:
        record["verdict"] = trainer.verdict.to_dict()
    if trainer.own_answers:
        record["own_answers"] = trainer.own_answers
    if others:
        record["components"] = others
    for component in trainer.components:
        if component.name == "auto":
            record["options"]["learning_rate"] = component.rate
            record["auto"] = component.chosen()
        if component.name == "expected_outputs":
            name, has_proxies = component.proxy_model, component.needs.proxy_rows
            model_facts = None if name is None else _model_facts(name)
            record["expected_outputs"] = {"proxy_model": model_facts, "ranked_by_proxies": has_proxies}
    return record


def facts_of_rows(rows: "RowDataset", secret: str) -> RowFacts:
    """Number and fingerprint of the rows, and how many were `cut` or read `in_windows`, if any were."""
    facts: RowFacts = {"rows": len(_sources(rows)), "fingerprint": fingerprint(rows, secret)}
    if rows.cut:
        facts["cut"] = rows.cut
    if rows.in_windows:
        facts["in_windows"] = rows.in_windows
    return facts


def fingerprint(rows: "RowDataset", secret: str) -> str:
    """HMAC-SHA256 of the whole rows in their order, as the tokenizer makes them: its first 16 hexadecimal digits.

    It depends neither on batches and padding nor on where long rows were cut. Who has the rows and the secret can
    confirm it; without the secret, even a set of one short row cannot be found by guessing.
    """
    return hmac.new(secret.encode(), b"".join(key for _, key in _sources(rows)), hashlib.sha256).hexdigest()[:16]


def saved_step(trainer: Any) -> int:
    """The optimizer step that the saved model is from: the last step, or the best one if it was restored at the end."""
    args, state = trainer.args, trainer.state
    if args.load_best_model_at_end and not trainer.is_in_train and state.best_global_step:
        return state.best_global_step
    return state.global_step


def run_facts(**facts: Any) -> dict[str, Any]:
    """What is needed to judge or repeat a run: versions, machine, and the given facts."""
    import torch

    machine = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    return {"versions": package_versions(), "machine": machine, **facts}


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide what a run does, by name.

    Example:
        >>> sorted(package_versions())[0]
        'accelerate'
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _sources(rows: "RowDataset") -> list[tuple[int, bytes]]:
    """Number and key of each row; a long text that makes several samples counts once."""
    return list(dict.fromkeys((row.source.number, row.source.key) for row in rows.rows))


def _options(args: Any) -> dict[str, Any]:
    """The options of this package's own configuration that differ from their defaults, and those always recorded."""
    from transformers import TrainingArguments

    # A subclass that a user wrote may have options that name folders of this machine.
    package = __name__.partition(".")[0]
    config_class = next(each for each in type(args).__mro__ if each.__module__.partition(".")[0] == package)
    training = {option.name for option in fields(TrainingArguments)}
    own = [option for option in fields(config_class) if option.name not in training | _LEFT_OUT]
    changed = [option.name for option in own if getattr(args, option.name) != _default(option)]
    limit = ("max_steps",) if args.max_steps > 0 else ()
    values = {name: getattr(args, name) for name in (*_ALWAYS_RECORDED, *limit, *changed)}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def _default(option: Field) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def _model_facts(name: str | None) -> ModelFacts:
    is_local = name in (None, ADAPTER_OFF) or not _is_hub_id(name)
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

    from egup_trainer.modeling.base_weights import weights_digest

    if not isinstance(model, PeftModel):
        return None
    config = model.active_peft_config
    sizes = {name: getattr(config, name) for name in ("r", "lora_alpha") if hasattr(config, name)}
    several = {"active": list(model.active_adapters)} if len(model.peft_config) > 1 else {}
    base = weights_digest(config.base_model_name_or_path or "")
    others = {"base": base, "quantization": _quantization_of(model.get_base_model())}
    known = {name: value for name, value in others.items() if value is not None}
    return {"type": config.peft_type.value, **sizes, **several, **known}


def _quantization_of(model: Any) -> dict[str, Any] | None:
    """How bitsandbytes quantized a model as it was loaded; None for other models, whose files hold what they need."""
    from transformers import BitsAndBytesConfig

    config = vars(model.config).get("quantization_config")
    return config.to_dict() if isinstance(config, BitsAndBytesConfig) else None
