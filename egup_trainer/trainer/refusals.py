"""What a configuration must not ask of `transformers.TrainingArguments`."""

from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from egup_trainer.errors import ConfigError


def checkpointing_kwargs_name(config: TrainingArguments) -> str:
    """transformers 5.23 renamed the option and warns about the old name."""
    new = "activation_checkpointing_kwargs"
    return new if hasattr(config, new) else "gradient_checkpointing_kwargs"


def default_to_non_reentrant_checkpointing(config: TrainingArguments) -> None:
    """Sets the form of activation checkpointing that keeps the gradients of features and adapters."""
    name = checkpointing_kwargs_name(config)
    if getattr(config, name) is None and config.gradient_checkpointing_kwargs is None:
        setattr(config, name, {"use_reentrant": False})


def refuse_what_would_do_nothing(config: TrainingArguments) -> None:
    """Raises `ConfigError` for options of `TrainingArguments` that this trainer cannot honour."""
    expected = {"label_smoothing_factor": 0.0, "train_sampling_strategy": "random", "neftune_noise_alpha": None}
    if config.dataloader_persistent_workers and not config.dataloader_num_workers:
        expected["dataloader_persistent_workers"] = False
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise ConfigError(
                got=f"{name}={getattr(config, name)}",
                expected=f"{value}, the only value that this trainer can honour",
                fix=f"leave out --{name}",
            )


def refuse_to_publish_features(config: Any) -> None:
    """Raises `ConfigError` if features of the forget set would be pushed to a hub."""
    if not config.push_to_hub:
        return
    scans, output = Path(config.scan_cache_dir or "_scan").resolve(), Path(config.output_dir).resolve()
    if config.scan_cache_dir and output in scans.parents and not scans.relative_to(output).parts[0].startswith("_"):
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
