"""What is planned: a run with the flags of `egup unlearn`, and the machine that it is planned for."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from egup_trainer.data.schema import RowSource, TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.losses.registry import make_forget_loss
from egup_trainer.modeling.loading import lora_config, model_init_kwargs
from egup_trainer.preparation import RowSets, prepare_rows, prepare_tokenizer
from egup_trainer.trainer import make_components

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Where the run would take place; `memory` is how many bytes it may take there."""

    is_gpu: bool
    memory: int
    name: str

    @classmethod
    def of(cls, use_cpu: bool, memory_gb: float | None = None) -> "Machine":
        """This machine, or one with `memory_gb` (10^9 bytes): a GPU, unless `use_cpu`."""
        if memory_gb is not None:
            return cls(not use_cpu, int(memory_gb * 1e9), f"the planned {'machine' if use_cpu else 'GPU'}")
        if torch.cuda.is_available() and not use_cpu:
            return cls(True, torch.cuda.mem_get_info()[0], torch.cuda.get_device_name())
        free = psutil.virtual_memory().available
        limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
        if limit.is_file() and limit.read_text().strip() != "max":  # of this container
            free = max(min(free, int(limit.read_text()) - int(used.read_text()) + _reclaimable()), 0)
        # The run can have what this process holds, too, once it ends.
        return cls(False, free + resident_memory(), "this machine without a GPU")


def _reclaimable() -> int:
    """Bytes of files that the system keeps in the container's memory as long as nothing else needs it."""
    stat = _CGROUP / "memory.stat"
    lines = stat.read_text().splitlines() if stat.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def resident_memory() -> int:
    """Bytes of this process that are in memory."""
    return psutil.Process(os.getpid()).memory_info().rss


@dataclass(frozen=True)
class Job:
    """What `egup unlearn` would be given, and how many bytes its `libraries` take in the process.

    `args` is an `EGUPConfig` with `model_init_kwargs`, and `peft_config` is that of a new adapter.
    """

    model: str
    args: Any
    peft_config: Any
    rows: RowSets
    tokenizer: Any
    machine: Machine
    libraries: int = 0


def make_job(row_args: Any, args: Any, model_config: Any, stand_in: bool = False) -> Job:
    """Reads and tokenizes the rows as the run would; with `stand_in`, forget rows in place of proxies to be written.

    Raises:
        DataError: rows cannot be read, or are missing.
        ModelError: there is no tokenizer.
    """
    args.model_init_kwargs = {**model_init_kwargs(model_config, args.use_cpu), **(args.model_init_kwargs or {})}
    tokenizer = prepare_tokenizer(None, model_config.model_name_or_path, args)
    has_proxies = stand_in or row_args.proxy is not None
    components = make_components(args, make_forget_loss(args), has_proxies)
    waiting = [each for each in components if stand_in and each.needs.proxy_rows]
    forget, retain = row_args.read(row_args.forget), None if row_args.retain is None else row_args.read(row_args.retain)
    proxy = row_args.read(row_args.proxy) if has_proxies and not stand_in else None
    ready = [each for each in components if each not in waiting]
    rows = prepare_rows(forget, retain, proxy, ready, tokenizer, args)
    if stand_in:
        rows = replace(rows, proxy=RowDataset([_backwards(row) for row in rows.forget.rows]))
        for component in waiting:
            component.check_rows(rows.forget, rows.retain, rows.proxy)
    machine = Machine.of(args.use_cpu, row_args.memory_gb)
    if machine.is_gpu and not torch.cuda.is_available():
        args.bf16 = not args.fp16  # the default of a run on a GPU, which is refused without one
    return Job(model_config.model_name_or_path, args, lora_config(model_config), rows, tokenizer, machine)


def _backwards(row: TokenizedRow) -> TokenizedRow:
    """The row with its answer from the last token to the first, which no model finds as likely as the row."""
    ids, labels = row.input_ids.copy(), row.labels.copy()
    ids[row.is_scored] = labels[row.is_scored] = row.labels[row.is_scored][::-1]
    turned = replace(row, input_ids=ids, labels=labels)
    return replace(turned, source=RowSource.of(row.source.number, turned))  # another row than the one to forget
