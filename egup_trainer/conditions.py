"""The package's own file in a checkpoint: tensors, and the conditions of the run that they belong to."""

import hashlib
import json
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from egup_trainer.components.scanning import is_spread_over_processes
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import StateError
from egup_trainer.files import write_file_with
from egup_trainer.modeling.scan import add_weights, describe_model

STATE_NAME = "egup_state.safetensors"
_CONDITIONS = "conditions"
_MOST_NAMED = 8

# Options that change the final weights of a run by rounding at most. All others are conditions of the run.
_PLACES = ("output_dir", "scan_cache_dir", "resume_from_checkpoint", "overwrite_output_dir", "card_author", "verdict")
_RECORDED_OTHERWISE = (  # by the rows, the weights, the number of rows in a step, or the precision
    *("model_init_kwargs", "idk_answers", "proxy_model", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("bf16", "fp16"),
)
_REPORTS = (
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
    *("log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project", "logging_dir"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "include_num_input_tokens_seen"),
    *("debug", "skip_memory_metrics", "prediction_loss_only", "include_for_metrics", "batch_eval_metrics"),
)
_HUB = (
    *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
    *("hub_revision", "push_to_hub_token"),
)
_HARDWARE = (
    *("use_cpu", "torch_compile", "torch_compile_backend", "torch_compile_mode", "use_liger_kernel"),
    *("liger_kernel_config", "use_cache", "activation_checkpointing", "activation_checkpointing_kwargs"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_empty_cache_steps", "full_determinism"),
    *("accelerator_config", "parallelism_config", "local_rank", "padding_free", "per_device_eval_batch_size"),
    *("bf16_full_eval", "fp16_full_eval", "eval_accumulation_steps", "eval_do_concat_batches"),
    *("eval_use_gather_object", "average_tokens_across_devices", "dataloader_num_workers", "dataloader_pin_memory"),
    *("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
    *("dataloader_in_order", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"),
    *("ddp_static_graph", "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config"),
)
_CHECKPOINTS = ("save_only_model", "save_on_each_node", "save_total_limit", "enable_jit_checkpoint", "eval_on_start")
_UNUSED = (
    *("do_train", "do_eval", "do_predict", "label_names", "remove_unused_columns", "length_column_name"),
    *("restore_callback_states_from_checkpoint", "auto_find_batch_size"),
)
DO_NOT_MATTER = frozenset(
    (*_PLACES, *_RECORDED_OTHERWISE, *_REPORTS, *_HUB, *_HARDWARE, *_CHECKPOINTS, *_UNUSED),
)
OF_EVALUATIONS = frozenset(
    (
        *("eval_strategy", "eval_steps", "eval_delay", "save_strategy", "save_steps"),
        *("metric_for_best_model", "greater_is_better"),
    )
)
"""Options that matter only where evaluations choose the checkpoint to end with, or the learning rate."""


@dataclass(frozen=True)
class Conditions:
    """Everything that decides which weights a run ends with.

    Args:
        options: values by name, as JSON shows them.
        inputs: digests by the name of what was digested, such as "forget rows".
    """

    options: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    def changes_from(self, other: "Conditions") -> list[str]:
        """A few words about each difference from `other`."""
        options = {**other.options, **self.options}
        changed = [
            f"{name} {_shown(self.options, name)} (then {_shown(other.options, name)})"
            for name in options
            if self.options.get(name) != other.options.get(name)
        ]
        inputs = {**other.inputs, **self.inputs}
        return changed + [f"other {name}" for name in inputs if self.inputs.get(name) != other.inputs.get(name)]


def options_of(args: Any) -> dict[str, Any]:
    """The options that change the result, as plain values, and how many forget rows make up a step.

    The result does not depend on how a step is divided into processes, batches and accumulated passes.
    """
    needs_evaluations = args.load_best_model_at_end or args.lr_scheduler_type == "reduce_lr_on_plateau"
    left_out = DO_NOT_MATTER if needs_evaluations else DO_NOT_MATTER | OF_EVALUATIONS
    values = {option.name: getattr(args, option.name) for option in fields(args) if option.name not in left_out}
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {"rows in a step": rows, **json.loads(json.dumps(plain, default=str))}


def digest_of(rows: RowDataset) -> str:
    """Digest of tokenized rows in their order, with their paraphrases and alternates."""
    digest = hashlib.sha256()
    for row in rows.rows:
        for part in (row, row.paraphrase, row.alternate):
            key = b"" if part is None else part.key()
            digest.update(len(key).to_bytes(8, "big") + key)
    return digest.hexdigest()


def weights_of(model: Any) -> dict[str, str]:
    """Digest of the weights that a run starts from; empty if they are spread over processes.

    If the model has an adapter, only the weights that are not trained count: a new adapter starts from random numbers,
    which a checkpoint replaces.
    """
    if is_spread_over_processes(model):
        return {}
    has_adapter = hasattr(model, "peft_config")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad} if has_adapter else set()
    digest = hashlib.sha256()
    add_weights(digest, model, left_out=trained)
    return {"base weights" if has_adapter else "weights before the first step": digest.hexdigest()}


def model_options(model: Any) -> dict[str, Any]:
    """The settings of the model and of its adapters, one by one."""
    described = json.loads(describe_model(model))
    parts = {"model": described["config"], **{f"adapter {name}": each for name, each in described["adapters"].items()}}
    return {f"{part}: {name}": value for part, config in parts.items() for name, value in config.items()}


def save_state(state: dict[str, Tensor], folder: str, conditions: Conditions) -> None:
    """Writes the tensors and the conditions of a run into a checkpoint folder, readable by the user alone."""
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    metadata = {_CONDITIONS: json.dumps(vars(conditions))}
    write_file_with(Path(folder) / STATE_NAME, lambda path: save_file(tensors, path, metadata))


def load_state(folder: str) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint, into main memory."""
    from safetensors import safe_open

    with safe_open(Path(folder) / STATE_NAME, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def refuse_other_conditions(folder: str | Path, conditions: Conditions) -> None:
    """Raises `StateError` for a checkpoint of a run under other conditions; the message names what differs."""
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / STATE_NAME
    if not path.is_file():
        raise StateError(
            got=f"the checkpoint {folder} without {STATE_NAME}",
            expected="a checkpoint of this trainer, saved without save_only_model",
            fix="resume from another one, or start anew",
        )
    try:
        with safe_open(path, "pt") as file:
            found = Conditions(**json.loads((file.metadata() or {})[_CONDITIONS]))
    except (SafetensorError, ValueError, TypeError, KeyError):
        raise StateError(
            got=f"the checkpoint {folder}, whose {STATE_NAME} does not say what its run was",
            expected="a checkpoint of this version of the trainer",
            fix="resume with the version that wrote it, or start anew",
        ) from None
    changes = conditions.changes_from(found)
    if changes:
        more = f" and {len(changes) - _MOST_NAMED} more" if len(changes) > _MOST_NAMED else ""
        raise StateError(
            got=f"the checkpoint {folder} of a run under other conditions: {', '.join(changes[:_MOST_NAMED])}{more}",
            expected="the rows, weights and options that the run was started with",
            fix="resume with those, or start anew",
        )


def _shown(options: dict[str, Any], name: str) -> str:
    text = json.dumps(options[name], ensure_ascii=False) if name in options else "not there"
    return text if len(text) <= 60 else f"{text[:57]}..."
