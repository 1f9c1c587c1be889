"""A step and a scan on shapes alone: the trainer's own forward and backward pass, run on fake tensors and counted."""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from egup_trainer.data.collator import Part, parts_of
from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.registry import make_forget_loss, retain_loss
from egup_trainer.modeling.batches import evaluation_mode
from egup_trainer.modeling.forward import AnswerPositions, AnswerReader
from egup_trainer.modeling.memory.packing import Packer, RowLayout, padded
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.reference import NEEDS_OF_LOGITS, Need
from egup_trainer.modeling.top_k_logps import TopKLogProbs
from egup_trainer.planning.skeleton import Skeleton, shapes_alone
from egup_trainer.planning.tally import Tally

GRADIENTS, LOGITS, ACTIVATIONS = "gradients", "logits", "activations"
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Reading:
    """What a run reads of the model.

    Args:
        features, logits, hidden: whether it reads features, logits at answer positions, hidden states of tokens.
        likely: how many of the most likely tokens stand for the model before unlearning; 0 for none.
    """

    features: bool
    logits: bool
    hidden: bool
    likely: int = 0


class ShapeReader(AnswerReader):
    """Reads a model of fake tensors, of whose logits it cannot tell whether a cap was put on them."""

    def __init__(self, skeleton: Skeleton, args: Any):
        super().__init__(skeleton.model, args.feature_layer, args.rmu_layer)
        self._transform_is_known = True


def layout_of(skeleton: Skeleton, batch: Batch, padding_free: bool | None) -> RowLayout:
    """How the model would read a batch. Where nobody said, one that takes position ids is taken to keep rows apart."""
    packer, rows = Packer(skeleton.model, padding_free), (batch["input_ids"], batch["attention_mask"])
    packs = packer.takes_positions if padding_free is None else padding_free
    return packer.cheapest(*rows) if packs else padded(*rows)


def run_step(skeleton: Skeleton, batch: Batch, args: Any, reading: Reading) -> dict[str, int]:
    """What an optimizer step holds at most besides weights and optimizer state, bytes by part.

    A step of several micro-batches holds the first one's gradients while the second one is read. All of the trained
    weights' gradients count, also where the peak comes before the last of them.

    Args:
        batch: the largest micro-batch, joined.
        args: an `EGUPConfig`.

    Raises:
        ModelError: the model's shapes depend on what it reads.
    """
    model, vocabulary = skeleton.model, skeleton.model.config.get_text_config().vocab_size
    model.train()
    if args.gradient_checkpointing or getattr(args, "activation_checkpointing", False):
        # By its new name where there is one. Random numbers to be put back, a few kilobytes, are not to be had here.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False, "preserve_rng_state": False})
    kind_of = lambda tensor: LOGITS if tensor.ndim and tensor.shape[-1] == vocabulary else ACTIVATIONS  # noqa: E731
    with ExitStack() as stack:
        stack.enter_context(shapes_alone(type(model).__name__))
        stack.enter_context(skeleton.mode)
        tally = stack.enter_context(Tally([*model.parameters(), *model.buffers()], kind_of))
        for weight in skeleton.trained:
            hook = weight.register_post_accumulate_grad_hook(lambda each: tally.label(each.grad, GRADIENTS))
            stack.callback(hook.remove)
        step = _Step(skeleton, batch, args, reading)
        for _ in range(min(args.gradient_accumulation_steps, 2)):
            step.loss().backward()
        model.zero_grad()
    whole = sum(weight.numel() * weight.element_size() for weight in skeleton.trained)
    found = {name: tally.at_peak.get(name, 0) for name in (ACTIVATIONS, LOGITS)}
    early = whole - tally.at_peak.get(GRADIENTS, 0)
    found[ACTIVATIONS] = max(found[ACTIVATIONS] - early, 0)  # the step's end may hold more than the peak of tensors
    return {GRADIENTS: whole, **found}


def run_scan(skeleton: Skeleton, batch: Batch, args: Any, reading: Reading) -> dict[str, int]:
    """What a pass without gradient over a batch of rows holds at most besides weights, bytes by part."""
    model, vocabulary = skeleton.model, skeleton.model.config.get_text_config().vocab_size
    layout = layout_of(skeleton, batch, args.padding_free)
    kind_of = lambda tensor: LOGITS if tensor.ndim and tensor.shape[-1] == vocabulary else ACTIVATIONS  # noqa: E731
    known = [*model.parameters(), *model.buffers()]
    places = AnswerPositions.of(batch["labels"], layout)
    reading = replace(reading, logits=bool(reading.likely), hidden=False)
    with ExitStack() as stack:
        for each in (shapes_alone(type(model).__name__), skeleton.mode, torch.no_grad(), evaluation_mode(model)):
            stack.enter_context(each)
        tally = stack.enter_context(Tally(known, kind_of))
        stack.enter_context(_autocast(args))
        _read(skeleton, args, layout, places, reading)
    return {name: tally.at_peak.get(name, 0) for name in (ACTIVATIONS, LOGITS)}


class _Step:
    """A micro-batch's loss on shapes: layouts are made of real lengths, before any tensor is fake."""

    def __init__(self, skeleton: Skeleton, batch: Batch, args: Any, reading: Reading):
        self._skeleton, self._args, self._reading = skeleton, args, reading
        self._forget_loss = make_forget_loss(args)
        kind = retain_loss(args.retain_loss)
        self._retain_loss = kind() if kind and args.retain_weight else None
        with _disable_current_modes():  # values are needed here
            self._layout = layout_of(skeleton, batch, args.padding_free)
            self._places = AnswerPositions.of(batch["labels"], self._layout)
            self._rows = parts_of(batch)
            counts = self._places.counts.long()
            self._tokens = {part: int(counts[rows].sum()) for part, rows in self._rows.items()}
            self._apart: dict[Part, tuple[RowLayout, AnswerPositions]] = {
                part: _cut(batch, rows, skeleton, args)
                for part, rows in self._rows.items()
                if part in (Part.FORGET, Part.RETAIN)
            }

    def loss(self) -> Tensor:
        with _autocast(self._args):
            parts = self._parts(_read(self._skeleton, self._args, self._layout, self._places, self._reading))
            forget = replace(parts[Part.FORGET], alternate=parts.get(Part.ALTERNATE))
            total = self._forget_loss(forget, self._known(Part.FORGET, self._forget_loss.needs, forget)).sum()
            if self._retain_loss is not None and Part.RETAIN in parts:
                retain = parts[Part.RETAIN]
                total = (
                    total + self._retain_loss(retain, self._known(Part.RETAIN, self._retain_loss.needs, retain)).sum()
                )
            features = [each.features.sum() for each in parts.values() if each.features is not None]
            return torch.stack([total, *features]).sum()

    def _parts(self, outputs: AnswerOutputs) -> dict[Part, AnswerOutputs]:
        """As `AnswerOutputs.split`, whose sizes are values."""
        parts, start = {}, 0
        for part, rows in self._rows.items():
            tokens = slice(start, start + self._tokens[part])
            start = tokens.stop
            of_tokens: dict[str, Any] = {
                "logits": outputs.logits,
                "token_ids": outputs.token_ids,
                "hidden": outputs.hidden,
            }
            parts[part] = AnswerOutputs(
                outputs.token_logps[tokens],
                outputs.token_rows[tokens] - rows.start,
                outputs.num_tokens[rows],
                None if outputs.features is None else outputs.features[rows],
                **{name: each[tokens] for name, each in of_tokens.items() if each is not None},
            )
        return parts

    def _known(self, part: Part, needs: frozenset[Need], outputs: AnswerOutputs) -> ReferenceOutputs:
        """What the loss knows of the model before unlearning, which may take a pass over the part's rows."""
        number = torch.zeros_like(outputs.num_tokens)
        known = ReferenceOutputs(sum_nll=number, alternate_nll=number)
        if Need.TOP_K in needs and self._reading.likely:
            size, k = len(outputs.token_logps), self._reading.likely
            likely = TopKLogProbs(torch.zeros(size, k, dtype=torch.int32), torch.zeros(size, k + 1))
            return replace(known, top_k_logps=likely)
        if needs <= {Need.NLL}:
            return known
        reading = Reading(features=False, logits=bool(needs & NEEDS_OF_LOGITS), hidden=Need.HIDDEN in needs)
        with torch.no_grad():
            read = _read(self._skeleton, self._args, *self._apart[part], reading)
        return replace(known, logits=read.logits, hidden=read.hidden)


def _cut(batch: Batch, rows: slice, skeleton: Skeleton, args: Any) -> tuple[RowLayout, AnswerPositions]:
    part = {name: batch[name][rows] for name in ("input_ids", "attention_mask", "labels")}
    layout = layout_of(skeleton, part, args.padding_free)
    return layout, AnswerPositions.of(part["labels"], layout)


def _read(skeleton: Skeleton, args: Any, layout: RowLayout, places: AnswerPositions, reading: Reading) -> AnswerOutputs:
    """What the trainer's reader makes of a layout, in fake tensors of its shapes."""
    lines, width = layout.inputs["input_ids"].shape  # type: ignore[union-attr]
    ids = torch.zeros(lines, width, dtype=torch.long)
    # The model would make this mask of position ids or padding, by looking at their values.
    mask = torch.ones(lines, 1, width, width, dtype=torch.bool)
    shapes = RowLayout({"input_ids": ids, "position_ids": ids, "attention_mask": mask}, ids)
    tokens, rows = len(places.positions), len(places.counts)
    index = torch.zeros(3, tokens, dtype=torch.long)
    fakes = AnswerPositions(index[0], index[1], index[2], torch.ones(rows))
    reader = ShapeReader(skeleton, args)
    return reader.read(skeleton.model, shapes, fakes, reading.features, reading.logits, reading.hidden)


def _autocast(args: Any) -> Any:
    if not (args.bf16 or args.fp16):
        return nullcontext()
    return torch.autocast("cpu", torch.bfloat16 if args.bf16 else torch.float16)
