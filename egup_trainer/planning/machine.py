"""The memory of the machine that a run would have."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CGROUP = Path("/proc/self/status"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Where a run would take place.

    Args:
        is_gpu: whether the model lies on a GPU.
        memory: bytes that the run may take there.
        name: what to call it.
    """

    is_gpu: bool
    memory: int
    name: str

    @classmethod
    def of(cls, use_cpu: bool, memory_gb: float | None = None) -> "Machine":
        """This one, or one of `memory_gb` (10^9 bytes): a GPU, unless `use_cpu`."""
        if memory_gb is not None:
            return cls(not use_cpu, int(memory_gb * 1e9), f"a {'machine' if use_cpu else 'GPU'} of {memory_gb:g} GB")
        if torch.cuda.is_available() and not use_cpu:
            return cls(True, torch.cuda.mem_get_info()[0], f"{torch.cuda.get_device_name()}, of which is free")
        # What this process holds is the run's as soon as it ends.
        return cls(False, available_memory() + resident_memory(), "this machine without a GPU, of which is free")


def available_memory() -> int:
    """Bytes that processes can still take without swapping, within this container's limit."""
    import psutil

    limits = [psutil.virtual_memory().available]
    limit, used = (_CGROUP / "memory.max", _CGROUP / "memory.current")
    if limit.is_file() and limit.read_text().strip() != "max":
        limits.append(int(limit.read_text()) - int(used.read_text()))
    return max(min(limits), 0)


def resident_memory() -> int:
    """Bytes of this process that are in memory."""
    import psutil

    return psutil.Process(os.getpid()).memory_info().rss
