"""Checks of the options of `transformers.TrainingArguments`."""

import re
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from egup_trainer.errors import ConfigError, check_range

_MOST = 10**9
"""More rows or steps than any run has, and few enough for every library."""
_LARGEST_SEED = 2**32 - 1
"""NumPy takes no larger one."""
_MOST_WORKERS = 1024
"""As many worker processes as a machine can start without being brought down."""


def checkpointing_kwargs_name(config: TrainingArguments) -> str:
    """Name of the option with the arguments of activation checkpointing.

    transformers 5.23 renamed it and warns about the old name.
    """
    new = "activation_checkpointing_kwargs"
    return new if hasattr(config, new) else "gradient_checkpointing_kwargs"


def default_to_non_reentrant_checkpointing(config: TrainingArguments) -> None:
    """Sets the form of activation checkpointing that keeps the gradients of features and adapters."""
    name = checkpointing_kwargs_name(config)
    if getattr(config, name) is None and config.gradient_checkpointing_kwargs is None:
        setattr(config, name, {"use_reentrant": False})


def check_numbers_of_training(config: TrainingArguments) -> None:
    """Raises `ConfigError` for numbers of `TrainingArguments` with which training fails late, or does nothing."""
    counts = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    sometimes = ("eval_accumulation_steps", "torch_empty_cache_steps", "dataloader_prefetch_factor")
    check_range(config, (*counts, *sometimes), low=1, high=_MOST, whole=True)
    check_range(config, ("seed", "data_seed"), low=0, high=_LARGEST_SEED, whole=True)
    check_range(config, ("dataloader_num_workers",), low=0, high=_MOST_WORKERS, whole=True)
    if config.max_steps == 0:  # transformers would take as many steps as with -1
        raise ConfigError(
            got="max_steps=0",
            expected="1 or more, or -1 for as many steps as --num_train_epochs has",
            fix="set --max_steps; to measure a model without training it, see `egup evaluate`",
        )
    check_range(config, ("max_steps",), low=-1, high=_MOST, whole=True)
    check_range(config, ("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "eval_delay"), low=0)
    positive = ("num_train_epochs", "adam_epsilon", "logging_steps", "save_steps", "eval_steps")
    check_range(config, positive, low=0, low_is_allowed=False)
    check_range(config, ("adam_beta1", "adam_beta2"), low=0, high=1)


def check_mappings(config: TrainingArguments) -> None:
    """Raises `ConfigError` for text where a mapping is expected: transformers parses only text in braces."""
    for name in type(config)._VALID_DICT_FIELDS:
        value = getattr(config, name)
        if isinstance(value, str) and name != "deepspeed":  # which may name a file
            raise ConfigError(
                got=f"{name}={value}", expected="a mapping as JSON, in braces", fix=f"set --{name} or leave it out"
            )


def check_regex(pattern: str | None) -> None:
    """Raises `ConfigError` if `trainable_params_regex` is not a regular expression."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ConfigError(
            got=f"trainable_params_regex={pattern}, which is not a regular expression ({error})",
            expected=r"one such as 'model\.layers\.7\..*'",
            fix="set --trainable_params_regex",
        ) from error


def refuse_to_evaluate_nothing(config: TrainingArguments, has_rows: bool) -> None:
    """Raises `ConfigError` if evaluations are asked for and there are no rows for them."""
    if has_rows:
        return
    asked = {"eval_on_start": config.eval_on_start, "eval_strategy": config.eval_strategy != "no"}
    for name in (name for name, is_asked in asked.items() if is_asked):
        value = getattr(config, name)
        raise ConfigError(
            got=f"{name}={getattr(value, 'value', value)} without evaluation rows",
            expected="rows to evaluate on",
            fix=f"give eval_dataset (--eval or --eval_suite), or leave out --{name}",
        )


def refuse_unsupported_arguments(config: TrainingArguments) -> None:
    """Raises `ConfigError` for options of `TrainingArguments` that this trainer cannot honor."""
    if config.load_best_model_at_end and config.eval_strategy == "no":
        raise ConfigError(
            got="load_best_model_at_end with eval_strategy=no",
            expected="steps or epoch: evaluations tell which checkpoint is best",
            fix="set --eval_strategy and --save_strategy",
        )
    if config.auto_find_batch_size:
        raise ConfigError(
            got="auto_find_batch_size",
            expected="a batch size that fits: a search starts again on weights that have moved, with fewer rows a step",
            fix="leave it out; a lower --per_device_train_batch_size with as many times more "
            "--gradient_accumulation_steps gives the same result in less memory",
        )
    parallel = config.parallelism_config
    sizes = {name: getattr(parallel, f"{name}_size", 1) for name in ("tp", "cp", "sp")}
    for name, size in sizes.items():
        if parallel is not None and size > 1:
            raise ConfigError(
                got=f"parallelism_config with {name}_size={size}",
                expected="1: each process is given rows of its own",
                fix="use data parallelism: DDP, FSDP2 or DeepSpeed",
            )
    expected = {"label_smoothing_factor": 0.0, "neftune_noise_alpha": None, "ignore_data_skip": False}
    if config.dataloader_persistent_workers and not config.dataloader_num_workers:
        expected["dataloader_persistent_workers"] = False
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise ConfigError(
                got=f"{name}={getattr(config, name)}",
                expected=f"{value}, the only value that this trainer can honor",
                fix=f"leave out --{name}",
            )


def check_sampling(config: TrainingArguments) -> None:
    """Raises `ConfigError` for a sampling strategy that does not exist for pairs of rows."""
    strategies = ("random", "group_by_length")
    if config.train_sampling_strategy not in strategies:
        raise ConfigError(
            got=f"train_sampling_strategy={config.train_sampling_strategy}",
            expected=f"{' or '.join(strategies)}: forget rows are visited in random order",
            fix="set --train_sampling_strategy group_by_length, or leave it out",
        )


def refuse_to_publish_features(config: Any) -> None:
    """Raises `ConfigError` if features of the forget set would be pushed to a hub."""
    if not config.push_to_hub:
        return
    scans, output = Path(config.scan_cache_dir or "_scan").resolve(), Path(config.output_dir).resolve()
    below = scans.relative_to(output).parts if scans.is_relative_to(output) else ("_elsewhere",)
    if not below or not below[0].startswith("_"):  # what begins with _ is not pushed
        raise ConfigError(
            got=f"scan_cache_dir={config.scan_cache_dir} in a folder that is pushed to the hub",
            expected="a folder elsewhere: a scan holds features of the forget set, which must not be published",
            fix="set --scan_cache_dir",
        )
    if config.hub_strategy.value in ("checkpoint", "all_checkpoints"):
        raise ConfigError(
            got=f"hub_strategy={config.hub_strategy.value}",
            expected="end or every_save: checkpoints hold features of the forget set, which must not be published",
            fix="set --hub_strategy every_save",
        )


def refuse_reentrant_checkpointing(config: TrainingArguments) -> None:
    """Raises `ConfigError` for the form of activation checkpointing that loses gradients."""
    kwargs = getattr(config, checkpointing_kwargs_name(config)) or {}
    if kwargs.get("use_reentrant"):
        raise ConfigError(
            got="activation checkpointing with use_reentrant=true",
            expected="use_reentrant=false: the reentrant form loses the gradient of features and of adapters",
            fix="leave use_reentrant out",
        )
