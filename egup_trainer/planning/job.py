"""What a plan is made of, from the flags of `egup unlearn`."""

from typing import Any

import torch

from egup_trainer.losses.registry import make_forget_loss
from egup_trainer.modeling.loading import model_init_kwargs
from egup_trainer.planning.machine import Machine
from egup_trainer.planning.plan import Job
from egup_trainer.planning.steps import Rows
from egup_trainer.preparation import prepare_dataset, prepare_rows, prepare_tokenizer
from egup_trainer.trainer import make_components


def make_job(row_args: Any, args: Any, model_config: Any, stand_in: bool = False) -> Job:
    """Reads and tokenizes the rows as the run would.

    Args:
        row_args: which rows, and `memory_gb`.
        args: an `EGUPConfig`.
        model_config: TRL's `ModelConfig`.
        stand_in: whether the forget rows stand in for proxies that are still to be written.

    Raises:
        DataError: rows cannot be read, or are missing.
        ModelError: there is no tokenizer.
    """
    from trl import get_peft_config

    args.model_init_kwargs = {**model_init_kwargs(model_config, args.use_cpu), **(args.model_init_kwargs or {})}
    tokenizer = prepare_tokenizer(None, model_config.model_name_or_path, args)
    components = make_components(args, make_forget_loss(args), has_proxies=False)
    kept = None if row_args.retain is None else row_args.read(row_args.retain)
    sets = prepare_rows(row_args.read(row_args.forget), kept, None, components, tokenizer, args)
    forget, retain = sets.forget, sets.retain
    proxy = forget if stand_in else None
    if row_args.proxy is not None and not stand_in:
        proxy = prepare_dataset(row_args.read(row_args.proxy), "proxy set", tokenizer, args)
    machine = Machine.of(args.use_cpu, row_args.memory_gb)
    if machine.is_gpu and not torch.cuda.is_available():
        args.bf16 = not args.fp16  # what the run would take there unless told otherwise, and refuses here
    rows = Rows(forget, retain, proxy, tokenizer)
    return Job(model_config.model_name_or_path, args, get_peft_config(model_config), rows, machine)
