"""Changes of a run's flags that would make it fit, each with its own plan."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from egup_trainer.errors import EgupError
from egup_trainer.modeling.loading import lora_config, model_init_kwargs
from egup_trainer.planning.job import Job
from egup_trainer.planning.plan import Plan, make_plan


@dataclass(frozen=True)
class Change:
    """Flags to add, and the plan with them."""

    flags: str
    plan: Plan


def changes_that_fit(job: Job, model_config: Any) -> list[Change]:
    """The changes with which the run fits the machine, the smallest first; the one nearest to it if none fits.

    A change that the model or the objective does not allow is left out.

    Args:
        job: a run that does not fit.
        model_config: TRL's `ModelConfig` of the run.
    """
    changes = []
    for options in _changes(job, model_config):
        try:
            flags, changed = _change(job, model_config, options)
            changes.append(Change(flags, make_plan(changed)))
        except EgupError:
            continue
    fitting = [change for change in changes if change.plan.fits(job.machine.memory)]
    return fitting or sorted(changes, key=lambda change: change.plan.peak)[:1]


def _changes(job: Job, model_config: Any) -> Iterator[dict[str, Any]]:
    """Options to set: each change alone, then one after the other on top of those before."""
    checkpointing = {} if job.args.gradient_checkpointing else {"gradient_checkpointing": True}
    half, one = (_smaller_batch(job, size) for size in (max(job.args.per_device_train_batch_size // 2, 1), 1))
    adapter = {} if model_config.use_peft or model_config.load_in_4bit else {"use_peft": True}
    four_bit = {} if model_config.load_in_4bit else {"load_in_4bit": True, "use_bnb_nested_quant": True}
    if four_bit and not model_config.use_peft:
        four_bit = {"use_peft": True, **four_bit}
    single = [checkpointing, half, one, adapter, four_bit]
    together = [four_bit | checkpointing, four_bit | checkpointing | one]
    tried: list[dict[str, Any]] = [{}]
    for options in single + together:
        if options not in tried:
            tried.append(options)
            yield options


def _smaller_batch(job: Job, size: int) -> dict[str, Any]:
    """Options for smaller micro-batches, and more of them per step, which give the same results."""
    args = job.args
    pairs, micro_batches = args.per_device_train_batch_size, args.gradient_accumulation_steps
    if pairs % size or pairs == size:
        return {}
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": micro_batches * pairs // size}
    return options | ({"per_device_eval_batch_size": size} if args.per_device_eval_batch_size > size else {})


def _change(job: Job, model_config: Any, options: dict[str, Any]) -> tuple[str, Job]:
    """The flags of options, and the job with them."""
    of_model = {name: value for name, value in options.items() if hasattr(model_config, name)}
    args, peft_config = copy.copy(job.args), job.peft_config
    for name, value in options.items():
        if name not in of_model:
            setattr(args, name, value)
    if of_model:
        changed = replace(model_config, **of_model, **({"load_in_8bit": False} if "load_in_4bit" in of_model else {}))
        args.model_init_kwargs = {**(args.model_init_kwargs or {}), **model_init_kwargs(changed, args.use_cpu)}
        peft_config = lora_config(changed)
    flags = " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in options.items())
    return flags, replace(job, args=args, peft_config=peft_config)
