"""What would make a run fit: changes of its flags, each with its own plan."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from egup_trainer.errors import EgupError
from egup_trainer.modeling.loading import model_init_kwargs
from egup_trainer.planning.plan import Job, Plan, make_plan


@dataclass(frozen=True)
class Change:
    """Flags to add, and what the run would then take.

    Args:
        flags: as for the command line.
        plan: with them.
    """

    flags: str
    plan: Plan


def changes_that_fit(job: Job, model_config: Any) -> list[Change]:
    """Those of a few changes with which the run fits the machine, the least first; the nearest one if none does.

    A change that the model or the objective does not allow is left out.

    Args:
        job: what does not fit.
        model_config: TRL's `ModelConfig` that it was made with.
    """
    found = []
    for flags, changed in _changed_jobs(job, model_config):
        try:
            found.append(Change(flags, make_plan(changed)))
        except EgupError:
            continue
    fitting = [change for change in found if change.plan.fits(job.machine.memory)]
    return fitting or sorted(found, key=lambda change: change.plan.peak)[:1]


def _changed_jobs(job: Job, model_config: Any) -> Iterator[tuple[str, Job]]:
    """Each change alone, then one after the other on top of those before."""
    half, one = (_with_batch(job, size) for size in (max(job.args.per_device_train_batch_size // 2, 1), 1))
    checkpointed, packed = _with_checkpointing(job), _with_adapter(job, model_config, in_4bit=True)
    alone = (checkpointed, half, one, _with_adapter(job, model_config, in_4bit=False), packed)
    yield from dict(change for change in alone if change is not None).items()
    together, flags = job, []
    for change in (packed, checkpointed, one):
        if change is not None:
            flags.append(change[0])
            together = _merge(together, change[1], job)
            if len(flags) > 1:
                yield " ".join(flags), together


def _merge(first: Job, second: Job, original: Job) -> Job:
    """The job with what both changed."""
    args = copy.copy(first.args)
    for name, value in vars(second.args).items():
        if value is not getattr(original.args, name):
            setattr(args, name, value)
    peft_config = first.peft_config if second.peft_config is original.peft_config else second.peft_config
    return replace(original, args=args, peft_config=peft_config)


def _with_checkpointing(job: Job) -> tuple[str, Job] | None:
    if job.args.gradient_checkpointing:
        return None
    args = copy.copy(job.args)
    args.gradient_checkpointing = True
    return "--gradient_checkpointing", replace(job, args=args)


def _with_batch(job: Job, size: int) -> tuple[str, Job] | None:
    """Smaller micro-batches, as many more of them a step: the same step, and results."""
    pairs, micro_batches = job.args.per_device_train_batch_size, job.args.gradient_accumulation_steps
    if pairs % size or pairs == size:
        return None
    args = copy.copy(job.args)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = size, micro_batches * pairs // size
    args.per_device_eval_batch_size = min(args.per_device_eval_batch_size, size)
    flags = f"--per_device_train_batch_size {size} --gradient_accumulation_steps {args.gradient_accumulation_steps}"
    smaller_scan = args.per_device_eval_batch_size != job.args.per_device_eval_batch_size
    return flags + (f" --per_device_eval_batch_size {size}" if smaller_scan else ""), replace(job, args=args)


def _with_adapter(job: Job, model_config: Any, in_4bit: bool) -> tuple[str, Job] | None:
    """An adapter instead of all weights, if there is none yet, on weights of 4 bits if asked for."""
    from trl import get_peft_config

    if (model_config.use_peft and not in_4bit) or model_config.load_in_4bit:
        return None
    with_4bit = {"load_in_4bit": True, "load_in_8bit": False, "use_bnb_nested_quant": True} if in_4bit else {}
    changed = replace(model_config, use_peft=True, **with_4bit)
    args = copy.copy(job.args)
    args.model_init_kwargs = {**(job.args.model_init_kwargs or {}), **model_init_kwargs(changed, args.use_cpu)}
    flags = [] if model_config.use_peft else ["--use_peft"]
    flags += ["--load_in_4bit", "--use_bnb_nested_quant"] if in_4bit else []
    return " ".join(flags), replace(job, args=args, peft_config=get_peft_config(changed))
