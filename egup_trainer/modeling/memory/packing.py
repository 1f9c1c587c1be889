"""How a model reads rows: padded to one length, or several rows in one line, each blind to the others.

Rows differ in length, and padding costs as much as text. If a model takes its attention mask from position ids that
start anew with each row (the mask functions of transformers do), rows of different lengths can share a line of the
tensor, which leaves next to nothing to pad.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from egup_trainer.errors import ModelError
from egup_trainer.modeling.batches import evaluation_mode
from egup_trainer.modeling.limits import virtual_tokens, without_adapters
from egup_trainer.modeling.trials import is_fake

_WIDTHS = (1, 2, 3, 4)
"""Line widths that are considered, as multiples of the longest row."""

_TRIAL_LENGTH = 8
"""Tokens of each of the two rows that a model is tried with."""

_TOLERANCE = 0.05
"""Relative to the largest logit: more than bfloat16 rounds off, less than a wrong position changes."""

_LEAST = 1e-6
"""Relative to the largest logit: what another row may change, in tensors of the same shape."""


@dataclass(frozen=True)
class RowLayout:
    """B rows of up to T tokens, in P lines of W tokens as the model reads them.

    Args:
        inputs: what the model is called with: `input_ids` and what says which tokens belong together, each (P, W).
        indices: the index of each token in the flattened lines (P * W,), shape (B, T); meaningless for padding.
    """

    inputs: dict[str, Tensor | None]
    indices: Tensor

    @property
    def size(self) -> int:
        """Number of tokens that the model reads, including padding: P * W."""
        return self.inputs["input_ids"].numel()  # type: ignore[union-attr]


def padded(input_ids: Tensor, attention_mask: Tensor) -> RowLayout:
    """One line per row, each as long as the longest row."""
    indices = torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids)
    return RowLayout({"input_ids": input_ids, "attention_mask": attention_mask}, indices)


def packed(input_ids: Tensor, attention_mask: Tensor, lines: Sequence[Sequence[int]]) -> RowLayout:
    """The rows of each line, one after another.

    Example:
        >>> ids = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 9, 0]])
        >>> found = packed(ids, ids.ne(0).long(), lines=[[0, 1], [2]])
        >>> found.inputs["input_ids"], found.inputs["position_ids"]
        (tensor([[5, 6, 7, 8],
                [9, 9, 0, 0]]), tensor([[0, 1, 2, 0],
                [0, 1, 0, 0]]))
    """
    lengths = attention_mask.sum(dim=1).tolist()
    width, starts = width_of(lines, lengths), [0] * len(lengths)
    for index, line in enumerate(lines):
        filled = 0
        for row in line:
            starts[row], filled = index * width + filled, filled + lengths[row]
    within = torch.arange(input_ids.shape[1], device=input_ids.device)
    indices = torch.tensor(starts, device=input_ids.device)[:, None] + within  # (B, T)
    real = attention_mask.bool()
    # What fills up a line has position 0 everywhere: each such token is a row of its own, which no other token sees.
    ids, positions = input_ids.new_zeros(2, len(lines) * width)
    ids[indices[real]], positions[indices[real]] = input_ids[real], within.expand_as(indices)[real]
    shape = len(lines), width
    inputs = {"input_ids": ids.view(shape), "position_ids": positions.view(shape), "attention_mask": None}
    return RowLayout(inputs, indices)


class Packer:
    """Lays out rows so that the model reads them at the least cost.

    A token costs its share of the weights and its attention to its line: about 6 d + W for lines of W tokens in a model
    of width d, in the same unit. Flash attention reads each row alone, so that one long line is cheapest.

    Args:
        model: the bare model, with or without adapters.
        padding_free: whether to pack rows; None packs them if the model can read them so, which the first call tries.
    """

    def __init__(self, model: Any, padding_free: bool | None = None):
        config = model.config.get_text_config()
        self._token_cost, self._vocabulary = 6 * config.hidden_size, config.vocab_size
        self._attends_to_rows = "flash" in (getattr(config, "_attn_implementation", None) or "")
        self._bare, self.padding_free = model, padding_free
        self._packs = False if padding_free is False else None  # None: not tried yet

    def __call__(self, model: Callable[..., Any], input_ids: Tensor, attention_mask: Tensor) -> RowLayout:
        """The cheapest layout of rows, each (B, T) and padded on the right.

        Args:
            model: what will be called, which may be wrapped. Every process calls it equally often.

        Raises:
            ModelError: rows must be packed, and the model cannot read packed rows.
        """
        if self._packs is None:
            can = self._takes_positions()
            self._packs = can and (is_fake(self._bare) or self._separates_rows(model, input_ids.device))
            if self.padding_free and not self._packs:
                raise ModelError(
                    got=f"padding_free with {type(without_adapters(self._bare)).__name__}",
                    expected="a model that separates the rows of a line by their position ids",
                    fix="leave out --padding_free",
                )
        return self._cheapest(input_ids, attention_mask) if self._packs else padded(input_ids, attention_mask)

    def _takes_positions(self) -> bool:
        """Whether the model takes position ids and counts nothing else along a line.

        PEFT takes none if an adapter has virtual tokens, which would be put before the first row of a line alone.
        """
        bare: Any = without_adapters(self._bare)
        # Chunks are counted along a line in transformers 5.17, whatever rows it holds.
        chunks = getattr(bare.config.get_text_config(), "attention_chunk_size", None)
        counts_alone = chunks is None and not virtual_tokens(self._bare)
        return "position_ids" in inspect.signature(bare.forward).parameters and counts_alone

    @torch.no_grad()
    def _separates_rows(self, model: Any, device: torch.device) -> bool:
        """Whether a row has the same logits after another row as alone, whichever row that is."""
        ids = torch.arange(2 * _TRIAL_LENGTH, device=device).view(2, _TRIAL_LENGTH) % self._vocabulary
        mask = torch.ones_like(ids)
        ids[1, -2:] = mask[1, -2:] = 0
        other = torch.cat([(ids[:1] + 3) % self._vocabulary, ids[1:]])
        layouts = [padded(ids, mask), packed(ids, mask, [[0, 1]]), packed(other, mask, [[0, 1]])]
        second = mask[1].bool()
        with evaluation_mode(self._bare):
            alone, after, after_other = (
                model(**layout.inputs, use_cache=False).logits.float().flatten(0, 1)[layout.indices[1][second]]
                for layout in layouts
            )
        scale = alone.abs().max()
        is_blind = (after - after_other).abs().max() <= _LEAST * scale
        return bool(is_blind and (after - alone).abs().max() <= _TOLERANCE * scale)

    def _cheapest(self, input_ids: Tensor, attention_mask: Tensor) -> RowLayout:
        """The cheapest layout for a model that can read packed rows."""
        lengths = attention_mask.sum(dim=1).tolist()
        if self._attends_to_rows:
            return packed(input_ids, attention_mask, [range(len(lengths))])
        choices = [fill_lines(lengths, max(lengths) * times) for times in _WIDTHS]
        best = min(choices, key=lambda lines: self._cost(len(lines), width_of(lines, lengths)))
        if self._cost(len(best), width_of(best, lengths)) < self._cost(*input_ids.shape):
            return packed(input_ids, attention_mask, best)
        return padded(input_ids, attention_mask)

    def _cost(self, lines: int, width: int) -> int:
        return lines * width * (self._token_cost + width)


def width_of(lines: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Number of tokens of the longest line."""
    return max(sum(lengths[row] for row in line) for line in lines)


def fill_lines(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Distributes rows over lines of `width` tokens: longest first, each to the first line that has room for it.

    Example:
        >>> fill_lines([3, 5, 2], width=5)
        [[1], [0, 2]]
    """
    lines: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        line = next((index for index, left in enumerate(room) if left >= lengths[row]), len(lines))
        if line == len(lines):
            lines.append([])
            room.append(width)
        lines[line].append(row)
        room[line] -= lengths[row]
    return lines
