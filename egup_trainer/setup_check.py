"""Tries an optimizer, a scheduler, loggers and engines on a model of a few weights, before the real model is loaded.

`transformers.Trainer` builds most of them late, some after the first pass over the rows. What cannot be built with the
options of a run is refused here, with the names of those options that are in the way.
"""

import copy
from dataclasses import fields
from enum import Enum
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils import is_liger_kernel_available

from egup_trainer.base_config import RowTrainingConfig
from egup_trainer.config_checks import checkpointing_kwargs_name
from egup_trainer.errors import ConfigError, EgupError, first_line

_ROWS = [{"input_ids": [0, 1]}]


def try_setup(args: RowTrainingConfig, own_optimizer: bool = False) -> None:
    """Raises `ConfigError` if training cannot be set up with the options.

    Args:
        args: the configuration, which stays as it is.
        own_optimizer: whether the caller provides an optimizer, so that none is made from the options.
    """
    if getattr(args, "deepspeed_plugin", None) is not None:
        return  # Accelerate takes a plugin of DeepSpeed once in a process, and DeepSpeed makes its own optimizer
    error = _error_of(args, own_optimizer)
    if error is None:
        return
    if isinstance(error, EgupError):
        raise error
    default = type(args)(output_dir=args.output_dir, use_cpu=args.use_cpu)
    given = {option.name: getattr(args, option.name) for option in fields(args)}
    changed = [name for name, value in given.items() if value != getattr(default, name)]
    in_the_way = [
        name for name in changed if _error_of(_with(args, name, getattr(default, name)), own_optimizer) is None
    ]
    missing = isinstance(error, ImportError) or "install" in str(error).lower()
    flags = " or ".join(f"--{name}" for name in in_the_way) or "the options that it names"
    raise ConfigError(
        got=f"{', '.join(_shown(name, given[name]) for name in in_the_way) or 'options'}, with which training "
        f"cannot be set up ({first_line(error)})",
        expected="options for which transformers, accelerate and PyTorch have all that they need",
        fix=f"change or leave out {flags}{', or install what is missing' if missing else ''}",
    ) from error


def _error_of(args: RowTrainingConfig, own_optimizer: bool) -> Exception | None:
    try:
        _set_up(args, own_optimizer)
    except Exception as error:  # libraries raise errors of any kind, and each of them would end the run
        return error
    return None


def _set_up(args: RowTrainingConfig, own_optimizer: bool) -> None:
    """Does what `Trainer` does from its construction until its first step."""
    for callback in get_reporting_integration_callbacks(args.report_to):
        callback()
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise ImportError("Liger kernels need the package liger-kernel, which is not installed")
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    with TemporaryDirectory() as folder:  # a Trainer makes its output folder
        here = copy.copy(args)
        here.output_dir, here.report_to, here.push_to_hub = folder, [], False
        here.optim_target_modules = args.optim_target_modules and "all-linear"  # its layers have names of their own
        trainer = Trainer(LlamaForCausalLM(config), here, train_dataset=_ROWS, eval_dataset=_ROWS)
        trainer.get_train_dataloader()
        if not (own_optimizer or trainer.is_deepspeed_enabled):  # DeepSpeed makes its own from its configuration
            trainer.create_optimizer_and_scheduler(num_training_steps=max(args.max_steps, 1))
        if args.gradient_checkpointing:
            _try_checkpointing(trainer.model, here)
        if args.torch_compile:
            torch.compile(trainer.model, backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)


def _try_checkpointing(model: Any, args: RowTrainingConfig) -> None:
    model.gradient_checkpointing_enable(getattr(args, checkpointing_kwargs_name(args)))
    model.train()
    model(torch.tensor([[0, 1]], device=model.device)).logits.sum().backward()


def _with(args: RowTrainingConfig, name: str, value: Any) -> RowTrainingConfig:
    changed = copy.copy(args)
    setattr(changed, name, value)
    return changed


def _shown(name: str, value: Any) -> str:
    if "token" in name:
        return name
    value = value.value if isinstance(value, Enum) else value
    return f"{name}={' '.join(map(str, value)) if isinstance(value, list) else value}"
