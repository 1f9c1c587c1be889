"""An optimizer step as a whole, over all of its micro-batches and processes: its counts and what is logged of it."""

import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from egup_trainer.data.collator import Part
from egup_trainer.modeling.forward import count_answer_tokens

POSITIONS = "positions"
"""Of the sums that are collected: tokens that the model read, padding among them."""


@dataclass(frozen=True)
class StepCounts:
    """What sums are divided by, and whom the step visits.

    Args:
        forget_ids, retain_ids: sample ids of the whole step, fillers (-1) left out.
        retain_tokens: scored retain tokens, shape ().
        input_tokens: tokens of all rows, padding left out, shape ().
    """

    forget_ids: Tensor
    retain_ids: Tensor
    retain_tokens: Tensor
    input_tokens: Tensor

    @classmethod
    def of(cls, batches: list[dict[str, Tensor]], accelerator: Any) -> "StepCounts":
        """Counts the step's batches over all processes, by one gather."""
        tables = torch.cat([_count_rows(batch) for batch in batches]).to(accelerator.device)
        forget_ids, retain_ids, *counts = accelerator.gather(tables).unbind(dim=1)
        return cls(forget_ids[forget_ids >= 0], retain_ids[retain_ids >= 0], *(each.sum() for each in counts))

    @property
    def samples(self) -> dict[Part, Tensor]:
        """Ids of the step's samples."""
        return {Part.FORGET: self.forget_ids, Part.RETAIN: self.retain_ids}

    def per_forget_row(self, values: Tensor) -> Tensor:
        """Sum of values, each a share of the mean over the step's forget rows."""
        return values.sum() / max(len(self.forget_ids), 1)

    def per_retain_token(self, values: Tensor) -> Tensor:
        """Sum of values, each a share of the mean over the step's retain answer tokens."""
        return values.sum() / self.retain_tokens.clamp_min(1)


def _count_rows(batch: dict[str, Tensor]) -> Tensor:
    """Forget id, retain id, retain answer tokens and input tokens of each pair of a batch: (B, 4), int64."""
    forget_ids = batch["forget_ids"]
    size = len(forget_ids)
    retain_ids = batch.get("retain_ids", torch.full_like(forget_ids, -1))
    scored = count_answer_tokens(batch["labels"][size : 2 * size]) if "retain_ids" in batch else retain_ids * 0
    read = batch["attention_mask"].sum(dim=1).reshape(-1, size).sum(dim=0)
    return torch.stack([forget_ids, retain_ids, scored, read], dim=1)


class StepLog:
    """Collects what a reader of a run must see, on the device, until it is logged.

    Attributes:
        flushed: one value a forget sample and step, by name: what the last `flush` described.
    """

    _tokens: Tensor  # of the steps since the last log, shape ()

    def __init__(self) -> None:
        self.flushed: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._samples: dict[str, list[Tensor]] = defaultdict(list)
        self._restart()

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds shares of a step's values; shares of micro-batches and processes sum up to the step's value."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()

    def observe(self, samples: dict[str, Tensor]) -> None:
        """Keeps one value for each forget sample of the step, gathered over all processes already."""
        for name, values in samples.items():
            self._samples[name].append(values)

    def end_step(self, counts: StepCounts) -> None:
        """Counts a finished optimizer step."""
        self._steps += 1
        self._tokens = self._tokens + counts.input_tokens

    def flush(self, accelerator: Any) -> dict[str, float]:
        """Means over the steps since the last call, and starts anew. Called on every process alike."""
        if not self._steps:
            return {}
        names = sorted(self._sums)
        sums = accelerator.reduce(torch.stack([self._sums[name] for name in names]), "sum")
        logs: dict[str, float] = dict(zip(names, (sums / self._steps).tolist(), strict=True))
        positions = logs.pop(POSITIONS, 0.0) * self._steps
        samples = {name: torch.cat(parts).float() for name, parts in sorted(self._samples.items())}
        for name, values in samples.items():
            logs |= _describe(name, values)
        self.flushed = {name: values for name, values in samples.items() if name not in _OF_STEPS}
        logs["tokens_per_second"] = round(float(self._tokens) / (time.perf_counter() - self._start), 1)
        if positions:
            logs["padding"] = round(1 - float(self._tokens) / positions, 3)
        logs["peak_memory_gb"] = round(peak_memory_gb(), 3)
        self._sums.clear()
        self._samples.clear()
        self._restart()
        return logs

    def _restart(self) -> None:
        self._steps, self._start = 0, time.perf_counter()
        self._tokens = torch.tensor(0)


_OF_STEPS = ("proxy_lambda", "retain_multiplier")
"""What has one value a step, not a sample."""


def _describe(name: str, values: Tensor) -> dict[str, float]:
    if not len(values):
        return {}
    low, high = values.quantile(torch.tensor([0.1, 0.9], device=values.device)).tolist()
    if name == "weight":
        return {f"weight_{what}": getattr(values, what)().item() for what in ("mean", "min", "max")}
    if name in _OF_STEPS:
        return {name: values[-1].item()}
    if name == "boundary_gap":
        return {name: values.mean().item(), "past_boundary": (values > 0).float().mean().item()}
    return {name: values.mean().item(), f"{name}_p10": low, f"{name}_p90": high}


def peak_memory_gb() -> float:
    """Most memory that this process held: allocated on its GPU, or resident where it used none; 10^9 bytes."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if on_gpu:
        return on_gpu / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
