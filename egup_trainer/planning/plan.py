"""What a run takes: memory by phase and part, trained weights, steps.

The components of the run tell what they need and keep, and the trainer's own step runs on the largest micro-batch: with
real rows, and a model of fake tensors, which have shapes and no values.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from math import ceil
from operator import or_
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egup_trainer.components.auto import epochs_of
from egup_trainer.components.component import Needs
from egup_trainer.components.output_estimates import EstimatedOutputs
from egup_trainer.components.scanning import ScanRequest, merge_requests
from egup_trainer.components.step import Collected, StepCounts
from egup_trainer.data.collator import Batch, PairCollator, RowCollator
from egup_trainer.data.pairing import NO_SAMPLE, Pair, PairDataset, make_pair_sampler
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.egup import EGUPTrainer
from egup_trainer.errors import ConfigError
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.losses.registry import make_forget_loss
from egup_trainer.modeling.batches import evaluation_mode, iter_indices
from egup_trainer.modeling.forward import AnswerReader, count_answer_tokens
from egup_trainer.modeling.reference import Reference, ReferenceKind
from egup_trainer.modeling.scan import RowScores
from egup_trainer.modeling.top_k_logps import TokenOffsets, TopKLogProbs
from egup_trainer.planning.fake_model import FakeModel, bytes_of, only_shapes
from egup_trainer.planning.job import Job
from egup_trainer.planning.sizes import bytes_of_optimizer
from egup_trainer.planning.tally import Tally
from egup_trainer.trainer import make_components

WEIGHTS, ADAPTERS, GRADIENTS, OPTIMIZER = "weights", "adapters", "gradients", "optimizer state"
ACTIVATIONS, LOGITS, KEPT = "activations", "logits", "reference, cache and tables"
MAPPED, LIBRARIES = "model files", "libraries"
PARTS = (WEIGHTS, ADAPTERS, GRADIENTS, OPTIMIZER, ACTIVATIONS, LOGITS, KEPT, MAPPED, LIBRARIES)
LOADING, SCAN, STEP = "loading", "scan", "step"
MARGIN = 0.2
"""How far an estimate may be off, relative to the estimate; docs/scaling.md checks it."""

_MOST_PAIRS = 2_000_000
"""Number of pairs that are searched for the largest micro-batch; later epochs have the same rows in another order."""

_KNOWN, _UNKNOWN = 0.1, 9.0
"""Mean l of made-up rows that the model has seen, or has not."""

_FINGERPRINT = 3 * 8 * (1 << 22)
"""Maximum number of bytes that the fingerprint of a weight takes: three tensors of integers."""


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Args:
        trained, total: numbers of weights.
        phases: bytes by part, for each phase.
        steps: number of optimizer steps.
        optimizer_is_known: whether the state of the optimizer is counted.
        reference: how the reference model is kept.
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
        """Bytes of the largest phase."""
        return max(self.peaks.values())

    def fits(self, memory: int) -> bool:
        """Whether the run fits into that many bytes even if it takes more than estimated, by the margin."""
        return self.peak * (1 + MARGIN) <= memory


def make_plan(job: Job) -> Plan:
    """Plans a run without the values of its model.

    Raises:
        ModelError: there is no such model, or its memory cannot be counted.
        ConfigError: the options ask for several processes.
    """
    args = job.args
    if args.world_size > 1:
        raise ConfigError(
            got=f"{args.world_size} processes", expected="one", fix="plan one process, without a launcher"
        )
    loss = make_forget_loss(args)
    fake = FakeModel.build(job.model, args, job.peft_config, loss)
    with TemporaryDirectory() as folder, only_shapes(fake.model):
        trainer = ShapeTrainer(job, fake, loss, folder)
        batch = trainer.largest_batch()
        kept = trainer.start()
        scan = trainer.measure_scan()
        step = trainer.measure_step(batch)
    held = {**fake.weights, LIBRARIES: job.libraries}
    copy = sum(fake.weights.values()) if trainer.reference.frozen_copy is not None else 0
    step[ACTIVATIONS] += fake.unpacked
    state = bytes_of_optimizer(
        args.optim.value, [(tuple(weight.shape), weight.element_size()) for weight in fake.trained]
    )
    files = 0 if job.machine.is_gpu else fake.file
    mapped = files if fake.packed and fake.is_mapped else 0
    return Plan(
        trained=sum(weight.numel() for weight in fake.trained),
        total=sum(weight.numel() for weight in fake.model.parameters()),
        phases={
            LOADING: {**held, MAPPED: 0 if fake.is_mapped and not fake.packed else files},
            SCAN: {**held, **scan, KEPT: scan[KEPT] + copy, MAPPED: mapped},
            STEP: {**held, **step, OPTIMIZER: state or 0, KEPT: kept + copy, MAPPED: mapped},
        },
        steps=trainer.num_steps,
        optimizer_is_known=state is not None,
        reference=trainer.reference.kind,
        rows=len(batch["input_ids"]),
        positions=trainer.positions,
        answers=int(count_answer_tokens(batch["labels"]).sum()),
    )


class ShapeTrainer(EGUPTrainer):
    """The components and the step of a trainer on a model of fake tensors, without the loop and devices of `Trainer`.

    Large tables are mapped from files in the `folder`.

    Attributes:
        num_steps: number of optimizer steps of the run.
        positions: number of tokens that the model read in the last micro-batch.
    """

    model: Any
    data_collator: Any

    def __init__(self, job: Job, fake: FakeModel, loss: ForgetLoss, folder: str):
        args, rows = job.args, job.rows
        self._fake, self.model, self.positions = fake, fake.model, 0
        self._is_gpu, self._scanned, self._further_passes = job.machine.is_gpu, 0, list[dict[str, int]]()
        self.components = make_components(args, loss, rows.proxy is not None)
        self.needs = reduce(or_, (component.needs for component in self.components), Needs())
        self.forget_rows, self.retain_rows, self.proxy_rows = rows.forget, rows.retain, rows.proxy
        self.data_collator = RowCollator(job.tokenizer)
        # As if no two of the model's own answers were alike, and all as long as the given ones.
        forget = RowDataset(rows.forget.rows * (1 + args.self_samples))
        self.train_dataset = PairDataset(forget, rows.retain, self.needs.example_share, args.max_length)
        self.pair_sampler = make_pair_sampler(self.train_dataset, args.train_batch_size, args)
        steps_per_epoch = max(ceil(len(self.pair_sampler) / args.gradient_accumulation_steps), 1)
        self.num_steps = (
            args.max_steps if args.max_steps > 0 else ceil(epochs_of(args, steps_per_epoch) * steps_per_epoch)
        )
        cpu = torch.device("cpu")
        self.args: Any = SimpleNamespace(**{**vars(args), "scan_cache_dir": folder, "device": cpu})
        self.accelerator: Any = SimpleNamespace(device=cpu, gather=lambda tensor: tensor, autocast=self._autocast)
        self.reader = AnswerReader(self.model, args.feature_layer, args.rmu_layer, args.padding_free)
        self.is_fsdp_enabled = self.is_deepspeed_enabled = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # copying a fake tensor looks at its data pointer
            self.reference = Reference(self._choose_reference(), self.model, self.reader)
        self._attach_components()

    def largest_batch(self) -> Batch:
        """The micro-batch with the most tokens, joined as in training."""
        dataset, sampler = self.train_dataset, self.pair_sampler
        tokens = np.array([self._tokens_of(row) for row in dataset.forget.rows])
        retain = [len(row) for row in self.retain_rows.rows] if self.retain_rows is not None else []
        retain_tokens = np.array([*retain, 0])  # the last one for the index of a missing row, -1
        epochs = ceil(self.num_steps * self.args.gradient_accumulation_steps / len(sampler))

        def batches() -> Iterator[list[Any]]:
            for epoch in range(min(epochs, max(_MOST_PAIRS // len(dataset), 1))):
                sampler.set_epoch(epoch)
                yield from sampler

        def tokens_of(pair: Pair) -> int:
            return tokens[pair[0]] + retain_tokens[pair[1]] * (2 if dataset.has_example(pair) else 1)

        largest = max(batches(), key=lambda pairs: sum(tokens_of(pair) for pair in pairs if pair[0] != NO_SAMPLE))
        needs = self.needs
        collator = PairCollator(
            self.data_collator, self.retain_rows is not None, needs.positives, needs.alternate is not None
        )
        return collator([dataset[pair] for pair in largest])

    def _tokens_of(self, row: Any) -> int:
        """Number of tokens of a forget row with its second view and alternate answer."""
        second = {None: None, "views": row}.get(self.needs.positives, row.paraphrase)
        alternate = row.alternate if self.needs.alternate is not None else None
        return sum(len(each) for each in (row, second, alternate) if each is not None)

    def measure_scan(self) -> dict[str, int]:
        """Bytes by part of the largest forward pass before the first step, and of all results of the scan.

        The components must have been started, since some of them score rows then.
        """
        passes = [self._measure_pass(request) for request in self._requests().values()]
        most = max(passes, default={ACTIVATIONS: 0, LOGITS: 0}, key=lambda each: sum(each.values()))
        with self._tally() as tally:
            results = [self._made_up(request) for request in self._requests().values()]
        largest = max(weight.numel() for weight in self.model.parameters())
        fingerprint = min(_FINGERPRINT, 3 * 8 * largest) if results else 0
        most[ACTIVATIONS] = max(most[ACTIVATIONS] + self._fake.unpacked, fingerprint - most[LOGITS])
        # Held twice: where batches write them, and as they are passed on.
        passes = [{**most, KEPT: 2 * tally.now}, *self._further_passes]
        return max(passes, key=lambda each: sum(each.values()))

    def _measure_pass(
        self, request: ScanRequest, model: Any = None, estimate: Callable[..., Any] | None = None
    ) -> dict[str, int]:
        """Bytes by part that the largest forward pass of a scan, by the run's model or another, holds besides weights.

        They include what `estimate` makes of the outputs.
        """
        reader = self.reader if model is None else AnswerReader(model, padding_free=self.args.padding_free)
        model = self.model if model is None else model
        lengths = [len(request.dataset.rows[index]) for index in request.ids.tolist()]
        indices, _ = next(iter_indices(lengths, self.args.per_device_eval_batch_size, None, None))
        batch = self.data_collator([request.dataset[index] for index in request.ids[indices].tolist()])
        with torch.no_grad(), evaluation_mode(model), self._tally(model) as tally, self._autocast():
            outputs = reader(
                model,
                **batch,
                with_features=request.with_features,
                keep_logits=bool(request.top_k),
                with_states=request.with_states,
            )
            if estimate is not None:
                estimate(outputs)
        return {name: tally.at_peak.get(name, 0) for name in (ACTIVATIONS, LOGITS)}

    def load_other(self, name: str) -> Any:
        """Another model without its values, in the precision of the run's."""
        options = {**(self.args.model_init_kwargs or {}), "dtype": self.model.dtype, "quantization_config": None}
        args = SimpleNamespace(**{**vars(self.args), "model_init_kwargs": options})
        return FakeModel.build(name, args, None, self.forget_loss).model

    def score(
        self,
        dataset: RowDataset,
        ids: Tensor | None = None,
        model: Any = None,
        estimate: EstimatedOutputs | None = None,
        **options: Any,
    ) -> RowScores:
        """Made-up results of a model that does not know the rows; measures what it takes to get them."""
        if estimate is not None:
            options |= {"top_k": self.args.expected_top_k, "with_states": True}
        request = ScanRequest(dataset, torch.arange(len(dataset)) if ids is None else ids, **options)
        read = replace(request, top_k=0) if estimate is not None else request
        with self._tally() as tally:
            scores = self._made_up(request, nll=_UNKNOWN)
        weights = [] if model is None else [*model.parameters(), *model.buffers()]
        on_cpu = self._scanned + (0 if estimate is None else estimate.num_bytes)
        held = 2 * tally.now + sum(map(bytes_of, weights)) + (0 if self._is_gpu else on_cpu)
        self._further_passes.append({**self._measure_pass(read, model, estimate), KEPT: held})
        return scores

    def start(self) -> int:
        """Starts the components with made-up results of the scan; returns the bytes of what the run keeps."""
        with self._tally() as tally:
            scan = {name: self._made_up(request) for name, request in self._requests().items()}
        self._scanned = tally.now
        for component in self.components:
            component.start(scan)
        with self._tally() as tally:
            callbacks = self.forget_loss.callbacks(self)
        kept = tally.now if callbacks else 0
        counted = [each for each in self.components if not (self._is_gpu and each.stays_on_cpu)]
        return kept + sum(component.bytes_of_state() for component in counted)

    def _requests(self) -> dict[str, ScanRequest]:
        return merge_requests(component.scan() for component in self.components)

    def _made_up(self, request: ScanRequest, nll: float | None = None) -> RowScores:
        """Results of a scan as of a model that knows all rows but the proxies, unless `nll` is given."""
        rows = len(request.ids)
        if nll is None:
            nll = _UNKNOWN if request.dataset is self.proxy_rows else _KNOWN
        config = self.model.config.get_text_config()
        size, table, states = 0, None, None
        if request.with_features:
            size = config.hidden_size if request.projection is None else request.projection.shape[1]
        if request.top_k:
            total = TokenOffsets.of(request.dataset, request.ids.tolist()).total
            k = min(request.top_k, config.vocab_size - 1)
            with self._fake.mode:
                table = TopKLogProbs(torch.empty(total, k, dtype=torch.int32), torch.empty(total, k + 1))
                states = torch.empty(total, config.hidden_size) if request.with_states else None
        features = torch.randn(rows, size, generator=torch.Generator().manual_seed(0))
        return RowScores(torch.full((rows,), nll), torch.ones(rows), features, table, states)

    def measure_step(self, batch: Batch) -> dict[str, int]:
        """Bytes by part that an optimizer step holds at most besides weights and optimizer state.

        A step of several micro-batches holds the gradients of the first one while it reads the second one. All
        gradients count, even if the peak comes before the last of them.
        """
        model, trained = self.model.train(), self._fake.trained
        if self.args.gradient_checkpointing or getattr(self.args, "activation_checkpointing", False):
            # The new name if there is one. The state of the random number generator, a few kilobytes, is not kept.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False, "preserve_rng_state": False})
        batches = [batch] * min(self.args.gradient_accumulation_steps, 2)
        collected = Collected(StepCounts.of(batches, self.accelerator))
        with ExitStack() as stack:
            tally = stack.enter_context(self._tally())
            for weight in trained:
                hook = weight.register_post_accumulate_grad_hook(lambda each: tally.label(each.grad, GRADIENTS))
                stack.callback(hook.remove)
            for each in batches:
                with self._autocast():
                    step = self._read(model, each, collected)
                    loss = torch.stack(list(self.compute_terms(step).values())).sum()
                loss.backward()
            model.zero_grad()
        self.positions = step.forget.positions
        gradients = sum(map(bytes_of, trained))
        early = gradients - tally.at_peak.get(GRADIENTS, 0)
        # The end of the step, with all gradients, may hold more than the peak of tensors.
        activations = max(tally.at_peak.get(ACTIVATIONS, 0) - early, 0)
        return {GRADIENTS: gradients, ACTIVATIONS: activations, LOGITS: tally.at_peak.get(LOGITS, 0)}

    def _tally(self, other: Any = None) -> Tally:
        """Counts all tensors but the weights of the model, of its frozen copy and of an `other` model."""

        def part_of(tensor: Tensor) -> str:
            return LOGITS if tensor.ndim and tensor.shape[-1] == vocabulary else ACTIVATIONS

        vocabulary = self.model.config.get_text_config().vocab_size
        models = [each for each in (self.model, self.reference.frozen_copy, other) if each is not None]
        return Tally((tensor for each in models for tensor in (*each.parameters(), *each.buffers())), part_of)

    def _autocast(self) -> Any:
        if not (self.args.bf16 or self.args.fp16):
            return nullcontext()
        return torch.autocast("cpu", torch.bfloat16 if self.args.bf16 else torch.float16)
