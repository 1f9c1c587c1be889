"""What is logged of the steps of a run."""

import sys
import time
from collections import defaultdict
from typing import Any

import psutil
import torch
from torch import Tensor

from egup_trainer.components.step import COUNT, Collected, FinishedStep, Summary

POSITIONS = "positions"
"""The name of a sum: how many tokens the model read, including padding."""


class StepLog:
    """Collects what is logged of a run, on the device, until `flush`.

    Attributes:
        flushed: one value per forget sample and step, by name: what the last `flush` summarized.
    """

    _tokens: Tensor  # of the steps since the last log, shape ()

    def __init__(self) -> None:
        self.flushed: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}
        self._samples: dict[str, list[Tensor]] = defaultdict(list)
        self._summaries: dict[str, Summary] = {}
        self._restart()

    def add(self, collected: Collected, step: FinishedStep) -> None:
        """Adds a finished optimizer step: the sums of this process, and what components observed and log of it."""
        for name in collected.logged:
            value = collected.sums[name]
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        for name, (values, summary) in step.observed().items():
            self._samples[name].append(values)
            self._summaries[name] = summary
        self._values |= step.values
        self._steps += 1
        self._tokens = self._tokens + step.counts.input_tokens

    def flush(self, accelerator: Any) -> dict[str, float]:
        """What to log of the steps since the last call: means, speed and memory. It must be called on every process."""
        if not self._steps:
            return {}
        names = sorted(self._sums)
        sums = accelerator.reduce(torch.stack([self._sums[name] for name in names]), "sum")
        logs: dict[str, float] = dict(zip(names, (sums / self._steps).tolist(), strict=True))
        positions = logs.pop(POSITIONS, 0.0) * self._steps
        for counted in [name for name in logs if name.endswith(COUNT)]:
            name, count = counted.removesuffix(COUNT), logs.pop(counted)
            total = logs.pop(name)
            logs |= {name: total / count} if count else {}
        logs |= {name: value.item() for name, value in self._values.items()}
        self.flushed = {name: torch.cat(parts).float() for name, parts in sorted(self._samples.items())}
        for name, values in self.flushed.items():
            logs |= self._summaries[name](name, values) if len(values) else {}
        logs["tokens_per_second"] = round(float(self._tokens) / (time.perf_counter() - self._start), 1)
        if positions:
            logs["padding"] = round(1 - float(self._tokens) / positions, 3)
        logs["peak_memory_gb"] = round(peak_memory_gb(), 3)
        self._restart()
        return logs

    def _restart(self) -> None:
        self._steps, self._start = 0, time.perf_counter()
        self._tokens = torch.tensor(0)
        self._sums.clear()
        self._values.clear()
        self._samples.clear()


def peak_memory_gb() -> float:
    """Peak memory of this process in 10^9 bytes: allocated on its GPU, or resident if it has used no GPU."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if on_gpu:
        return on_gpu / 1e9
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
