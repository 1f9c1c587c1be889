"""A step of the optimizer: its micro-batches as components see them, and the finished step over all processes."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from egup_trainer.data.collator import Batch, Part
from egup_trainer.modeling.forward import count_answer_tokens
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.reference import Need


@dataclass(frozen=True)
class StepCounts:
    """The numbers that sums are divided by, and the samples of the step.

    Args:
        forget_ids, retain_ids: sample ids of the whole step, fillers (-1) excluded.
        retain_tokens: scored retain tokens, shape ().
        input_tokens: tokens of all rows, without padding, shape ().
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
        """Ids of the step's samples, shape (n,) each."""
        return {Part.FORGET: self.forget_ids, Part.RETAIN: self.retain_ids}

    def per_forget_row(self, values: Tensor) -> Tensor:
        """The sum of values (B,), one per forget row, divided by the forget rows of the step: shape ()."""
        return values.sum() / max(len(self.forget_ids), 1)

    def per_retain_token(self, values: Tensor) -> Tensor:
        """The sum of values (B,), one per retain row, divided by the retain answer tokens of the step: shape ()."""
        return values.sum() / self.retain_tokens.clamp_min(1)


def _count_rows(batch: Batch) -> Tensor:
    """Forget id, retain id, retain answer tokens and input tokens of each pair of a batch: (B, 4), int64."""
    forget_ids = batch["forget_ids"]
    size = len(forget_ids)
    retain_ids = batch.get("retain_ids", torch.full_like(forget_ids, -1))
    scored = count_answer_tokens(batch["labels"][size : 2 * size]) if "retain_ids" in batch else retain_ids * 0
    read = batch["attention_mask"].sum(dim=1).reshape(-1, size).sum(dim=0)
    return torch.stack([forget_ids, retain_ids, scored, read], dim=1)


COUNT = " count"
"""Ends the name of a sum that counts the values in another one, whose mean is logged."""

Summary = Callable[[str, Tensor], dict[str, float]]
"""Turns one value per forget sample and step, shape (n,), into the values that are logged, by their keys."""


def mean_and_spread(name: str, values: Tensor) -> dict[str, float]:
    """The mean, and the 10th and 90th percentile.

    Example:
        >>> mean_and_spread("drift", torch.tensor([0.0, 1.0]))["drift"]
        0.5
    """
    low, high = values.quantile(torch.tensor([0.1, 0.9], device=values.device)).tolist()
    return {name: values.mean().item(), f"{name}_p10": low, f"{name}_p90": high}


def mean_and_range(name: str, values: Tensor) -> dict[str, float]:
    """The mean, the smallest and the largest value.

    Example:
        >>> mean_and_range("weight", torch.tensor([1.0, 3.0]))
        {'weight_mean': 2.0, 'weight_min': 1.0, 'weight_max': 3.0}
    """
    return {f"{name}_{what}": getattr(values, what)().item() for what in ("mean", "min", "max")}


@dataclass(frozen=True)
class Features:
    """What the features of a micro-batch show.

    Args:
        forget, retain: phi with gradient, unit vectors, shapes (B, k) and (C, k); `retain` is None without retain rows.
        entanglement: e_i, by `inter_match`: how close they are to retain samples, without gradient, shape (B,).
        drift: d_i, 1 - cosine to the features before unlearning, without gradient, shape (B,).
    """

    forget: Tensor
    retain: Tensor | None
    entanglement: Tensor
    drift: Tensor


@dataclass
class Collected:
    """What the micro-batches of one optimizer step leave behind on this process.

    Args:
        rows: by name, one value per row, for each micro-batch.
        summaries: how the rows of a name are logged; those without a summary are not logged.
        sums: by name, the sum of the shares of all micro-batches.
        logged: the names of the sums that are logged.
    """

    counts: StepCounts
    rows: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    summaries: dict[str, Summary] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    logged: set[str] = field(default_factory=set)


@dataclass
class Step:
    """A micro-batch of an optimizer step, as components see it.

    Args:
        inputs: the joined batch.
        parts: the outputs of the model for each part of it.
        collected: where the values of the whole step are collected.
        read_reference: computes the outputs of the reference model for the rows of a part.
        weights: factor on each forget row's loss, the product over all components, shape (B,). It is None until all
            components have been asked, and if none of them has weights.
        features: what the features show, if a component needs features.
    """

    inputs: Batch
    parts: dict[Part, AnswerOutputs]
    collected: Collected
    read_reference: Callable[[Part, frozenset[Need]], AnswerOutputs]
    weights: Tensor | None = None
    features: Features | Any = None  # a component that reads them has said that it needs them

    @property
    def counts(self) -> StepCounts:
        """The counts of the whole step, by which sums are divided."""
        return self.collected.counts

    @property
    def forget(self) -> AnswerOutputs:
        """The outputs of the model for the forget rows."""
        return self.parts[Part.FORGET]

    @property
    def retain(self) -> AnswerOutputs | None:
        """The outputs of the model for the retain rows, if there are any."""
        return self.parts.get(Part.RETAIN)

    @property
    def forget_ids(self) -> Tensor:
        """Sample ids of the forget rows, shape (B,); -1 for a filler."""
        return self.inputs["forget_ids"]

    @property
    def retain_ids(self) -> Tensor:
        """Sample ids of the retain rows, shape (C,); -1 for a filler."""
        return self.inputs.get("retain_ids", self.forget_ids[:0])

    @property
    def is_real(self) -> Tensor:
        """1 for forget rows and 0 for fillers, shape (B,), float32."""
        return (self.forget_ids >= 0).float()

    def keep(self, name: str, values: Tensor) -> None:
        """Keeps `values`, one per row, without gradient, under a `name` for `Component.commit`."""
        self.collected.rows[name].append(values.detach())

    def observe(self, name: str, values: Tensor, summary: Summary = mean_and_spread) -> None:
        """Keeps `values`, one per forget row, as `keep` does, and logs their `summary` under `name`."""
        self.keep(name, values)
        self.collected.summaries[name] = summary

    def latest(self, name: str) -> Tensor:
        """The values that were kept last under a name, those of this micro-batch, shape (B,)."""
        return self.collected.rows[name][-1]

    def add(self, name: str, share: Tensor, log: bool = True) -> None:
        """Adds a micro-batch's `share`, shape (), to the step's value `name`; `log` says whether it is logged."""
        sums = self.collected.sums
        sums[name] = sums[name] + share.detach() if name in sums else share.detach()
        if log:
            self.collected.logged.add(name)

    def add_mean(self, name: str, values: Tensor, counts: Tensor) -> None:
        """Logs the mean of those of `values`, shape (n,), that count, over all steps since the last log.

        Nothing is logged if none did. `counts` says which of them do, bool, shape (n,).
        """
        self.add(name, values.where(counts, 0).sum())
        self.add(name + COUNT, counts.float().sum())


class FinishedStep:
    """An optimizer step that was taken, over all micro-batches and processes; the same on every process.

    Args:
        epoch: the epochs trained so far, with a fraction.

    Attributes:
        values: values of the run that components log as they are after this step, shape () each, by name.
    """

    def __init__(self, collected: Collected, accelerator: Any, epoch: float):
        self.counts, self.epoch = collected.counts, epoch
        self._collected, self._accelerator = collected, accelerator
        self._gathered: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """One value per row of the step, fillers among them, of all micro-batches and processes."""
        if name not in self._gathered:
            self._gathered[name] = self._accelerator.gather(torch.cat(self._collected.rows[name]))
        return self._gathered[name]

    def of_samples(self, name: str) -> Tensor:
        """One value per forget row of the step, without fillers, shape (n,)."""
        return self[name][self["forget_ids"] >= 0]

    def sum(self, name: str) -> Tensor:
        """The sum of the shares of all micro-batches and processes, shape ()."""
        return self._accelerator.reduce(self._collected.sums[name], "sum")

    def observed(self) -> dict[str, tuple[Tensor, Summary]]:
        """What is logged of single forget samples, shape (n,), and how."""
        return {name: (self.of_samples(name), summary) for name, summary in self._collected.summaries.items()}
