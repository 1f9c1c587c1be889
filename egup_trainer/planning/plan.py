"""A plan: memory by phase and part, weights that train, steps."""

from dataclasses import dataclass
from typing import Any

import torch

from egup_trainer.data.collator import RowCollator
from egup_trainer.errors import ConfigError
from egup_trainer.modeling.batches import iter_indices
from egup_trainer.modeling.forward import count_answer_tokens
from egup_trainer.modeling.reference import ReferenceKind
from egup_trainer.planning.dry_run import ACTIVATIONS, GRADIENTS, LOGITS, layout_of, run_scan, run_step
from egup_trainer.planning.machine import Machine
from egup_trainer.planning.needs import Needs, needs_of
from egup_trainer.planning.sizes import bytes_of_optimizer
from egup_trainer.planning.skeleton import Skeleton
from egup_trainer.planning.steps import Rows, count_steps, largest_batch

WEIGHTS, ADAPTERS, OPTIMIZER, KEPT = "weights", "adapters", "optimizer state", "reference, cache and tables"
MAPPED, LIBRARIES = "model files", "libraries"
PARTS = (WEIGHTS, ADAPTERS, GRADIENTS, OPTIMIZER, ACTIVATIONS, LOGITS, KEPT, MAPPED, LIBRARIES)
LOADING, SCAN, STEP = "loading", "scan", "step"
MARGIN = 0.2
"""By how much an estimate may be off: what docs/scaling.md holds them to."""

_FINGERPRINT = 3 * 8 * (1 << 22)
"""Most bytes that summing up a weight takes: three tensors of whole numbers."""


@dataclass(frozen=True)
class Job:
    """What is planned: what `egup unlearn` would be given.

    Args:
        model: folder or hub id.
        args: an `EGUPConfig` with `model_init_kwargs`.
        peft_config: of a fresh adapter, or None.
        rows: tokenized.
        machine: where it would run.
        libraries: bytes that the process holds besides.
    """

    model: str
    args: Any
    peft_config: Any
    rows: Rows
    machine: Machine
    libraries: int = 0


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Args:
        trained, total: numbers of weights.
        phases: bytes by part, of each phase.
        steps: optimizer steps.
        optimizer_is_known: whether the optimizer's state is counted.
        reference: how the model before unlearning is kept.
        rows, positions, answers: of the largest micro-batch: rows, tokens that the model reads, answer tokens.
    """

    trained: int
    total: int
    phases: dict[str, dict[str, int]]
    steps: int
    optimizer_is_known: bool
    reference: ReferenceKind
    rows: int
    positions: int
    answers: int

    @property
    def peaks(self) -> dict[str, int]:
        """Bytes of each phase."""
        return {name: sum(parts.values()) for name, parts in self.phases.items()}

    @property
    def peak(self) -> int:
        """Most bytes held at a time."""
        return max(self.peaks.values())

    def fits(self, memory: int) -> bool:
        """Whether it fits that many bytes, were it larger by the margin than estimated."""
        return self.peak * (1 + MARGIN) <= memory


def make_plan(job: Job) -> Plan:
    """Plans a run without its model's numbers.

    Raises:
        ModelError: there is no such model, or its memory cannot be counted.
        ConfigError: the options ask for several processes.
    """
    args, rows = job.args, job.rows
    if args.world_size > 1:
        raise ConfigError(
            got=f"{args.world_size} processes", expected="one", fix="plan one process, without a launcher"
        )
    skeleton = Skeleton.build(job.model, args, job.peft_config)
    needs = needs_of(skeleton, rows, args)
    batch = largest_batch(rows, args, needs.positives)
    held = {**skeleton.weights, LIBRARIES: job.libraries}
    shapes = [(tuple(weight.shape), weight.element_size()) for weight in skeleton.trained]
    state = bytes_of_optimizer(args.optim.value, shapes)
    step = run_step(skeleton, batch, args, needs.reading)
    step[ACTIVATIONS] += skeleton.unpacked + _bytes_of_noise(skeleton, batch, needs)
    files = 0 if job.machine.is_gpu else skeleton.file
    mapped = files if skeleton.packed and skeleton.is_mapped else 0
    phases = {
        LOADING: {**held, MAPPED: 0 if skeleton.is_mapped and not skeleton.packed else files},
        SCAN: {**held, **_scan(skeleton, rows, args, needs), MAPPED: mapped},
        STEP: {**held, **step, OPTIMIZER: state or 0, KEPT: needs.kept, MAPPED: mapped},
    }
    reads = batch["input_ids"]
    return Plan(
        trained=sum(weight.numel() for weight in skeleton.trained),
        total=sum(weight.numel() for weight in skeleton.model.parameters()),
        phases=phases,
        steps=count_steps(rows, args),
        optimizer_is_known=state is not None,
        reference=needs.reference,
        rows=len(reads),
        positions=layout_of(skeleton, batch, args.padding_free).size,
        answers=int(count_answer_tokens(batch["labels"]).sum()),
    )


def _scan(skeleton: Skeleton, rows: Rows, args: Any, needs: Needs) -> dict[str, int]:
    """The scan's own: its results, and a forward pass over the longest rows, or the sum of the weights before it."""
    collator, most = RowCollator(rows.tokenizer), {ACTIVATIONS: 0, LOGITS: 0}
    for dataset in needs.scanned.values():
        lengths = [len(row) for row in dataset.rows]
        places, _ = next(iter(iter_indices(lengths, args.per_device_eval_batch_size, None, None)))
        batch = collator([dataset[index] for index in places.tolist()])
        found = run_scan(skeleton, batch, args, needs.reading)
        most = max(most, found, key=lambda each: sum(each.values()))
    largest = max(weight.numel() for weight in skeleton.model.parameters())
    fingerprint = min(_FINGERPRINT, 3 * 8 * largest)
    return {
        **most,
        ACTIVATIONS: max(most[ACTIVATIONS] + skeleton.unpacked, fingerprint - most[LOGITS]),
        KEPT: needs.scan + (needs.kept if needs.reference is ReferenceKind.FROZEN_COPY else 0),
    }


def _bytes_of_noise(skeleton: Skeleton, batch: dict[str, torch.Tensor], needs: Needs) -> int:
    """The noise of second views, and the part of it that is added: float32, (rows, tokens, width)."""
    if needs.positives != "views":
        return 0
    shape = (
        *batch["input_ids"][-len(batch["positive_ids"]) :].shape,
        skeleton.model.config.get_text_config().hidden_size,
    )
    return 2 * 4 * torch.Size(shape).numel()
