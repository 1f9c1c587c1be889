"""Bytes of what a run holds, by counting. 1 GB is 10^9 bytes."""

from collections.abc import Iterable
from math import ceil
from typing import Any

from egup_trainer.components.feature_table import bytes_of_table

BLOCK_4BIT, BLOCK_ABSMAX = 64, 256
"""Numbers that share a scale: weights in 4 bits, and scales that are themselves quantised (Dettmers et al. 2023)."""

BLOCK_OPTIMIZER, LEAST_8BIT = 256, 4096
"""bitsandbytes' 8-bit optimizers: numbers that share a scale; weights of fewer numbers keep float32 state."""

STATES = {
    "adamw_torch": 2,
    "adamw_torch_fused": 2,
    "stable_adamw": 2,
    "sgd": 0,
    "adagrad": 1,
    "rmsprop": 1,
}
"""Numbers of an optimizer's state for each trained number, in the trained number's own type."""

STATES_FLOAT32 = {
    "paged_adamw_32bit": 2,
    "lion_32bit": 1,
    "paged_lion_32bit": 1,
    "rmsprop_bnb": 1,
    "rmsprop_bnb_32bit": 1,
}
"""The same in float32, whatever is trained (bitsandbytes)."""

STATES_8BIT = {
    "adamw_bnb_8bit": 2,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "lion_8bit": 1,
    "paged_lion_8bit": 1,
    "rmsprop_bnb_8bit": 1,
}
"""The same in one byte (bitsandbytes)."""


def bytes_of_4bit(weights: int, double_quant: bool = False) -> int:
    """A linear layer's weights in 4 bits, as bitsandbytes keeps them (Dettmers et al. 2023, arXiv 2305.14314).

    Formula: n / 2 bytes, a float32 scale for each 64 numbers, and the 16 float32 values that codes stand for. With
    `double_quant` a scale is one byte, 256 of them share a float32 scale, and 256 float32 values and a float32 mean
    are kept besides.

    Example:
        >>> bytes_of_4bit(64 * 256), bytes_of_4bit(64 * 256, double_quant=True)
        (9280, 9544)
    """
    blocks = ceil(weights / BLOCK_4BIT)
    scales = blocks + 4 * ceil(blocks / BLOCK_ABSMAX) + 4 * (256 + 1) if double_quant else 4 * blocks
    return ceil(weights / 2) + scales + 4 * 16


def bytes_of_8bit(outputs: int, inputs: int) -> int:
    """A linear layer's weights in 8 bits: a byte each, and a float32 scale for each output.

    Example:
        >>> bytes_of_8bit(3, 5)
        27
    """
    return outputs * (inputs + 4)


def bytes_of_optimizer(optim: str, shapes: Iterable[tuple[tuple[int, ...], int]]) -> int | None:
    """An optimizer's state, or None for one whose state is not known here.

    Args:
        optim: as in `TrainingArguments`.
        shapes: shape, and bytes of a number, of each trained weight.

    Example:
        >>> bytes_of_optimizer("adamw_torch", [((10, 10), 4)]), bytes_of_optimizer("sgd", [((10, 10), 4)])
        (800, 0)
        >>> bytes_of_optimizer("adamw_8bit", [((64, 64), 4), ((10,), 4)])  # 2 * (4096 + 4 * 16), 2 * 4 * 10
        8400
    """
    if optim == "adafactor":
        return sum(_bytes_of_factors(shape) for shape, _ in shapes)
    sizes = [(_product(shape), width) for shape, width in shapes]
    if optim in STATES:
        return sum(STATES[optim] * size * width for size, width in sizes)
    if optim in STATES_FLOAT32:
        return sum(STATES_FLOAT32[optim] * size * 4 for size, _ in sizes)
    if optim in STATES_8BIT:
        return sum(STATES_8BIT[optim] * _bytes_of_8bit_state(size) for size, _ in sizes)
    return None


def _bytes_of_factors(shape: tuple[int, ...]) -> int:
    """Adafactor's: means of squares over rows and over columns, float32; of a vector, each number's."""
    if len(shape) < 2:
        return 4 * _product(shape)
    return 4 * (_product(shape[:-1]) + _product((*shape[:-2], shape[-1])))


def _bytes_of_8bit_state(size: int) -> int:
    return 4 * size if size < LEAST_8BIT else size + 4 * ceil(size / BLOCK_OPTIMIZER)


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


def bytes_of_features(forget: int, retain: int, bank: int, size: int) -> int:
    """What EGUP remembers of samples: phi before and now of forget rows, phi before of scanned retain rows, the bank.

    Formula: the tables of `bytes_of_table`, and k numbers of 4 bytes for each vector of the bank.

    Args:
        forget, retain, bank: vectors of each kind.
        size: numbers of a vector, k.

    Example:
        >>> bytes_of_features(forget=10, retain=5, bank=3, size=8)  # 2 * 160 + 80 + 96
        496
    """
    return sum(bytes_of_table(rows, size) for rows in (forget, forget, retain)) + 4 * bank * size


def bytes_of_scan(rows: int, size: int) -> int:
    """A scan's results: L and the answer tokens of each row, and `size` numbers of features, float32; held twice, where
    batches write them and as they are handed on."""
    return 2 * 4 * rows * (2 + size)


def item_size(dtype: Any) -> int:
    """Bytes of a number of a torch type, or of one by its name; float32 if there is none.

    Example:
        >>> item_size("bfloat16"), item_size(None)
        (2, 4)
    """
    import torch

    if dtype in (None, "auto"):
        return 4
    return (getattr(torch, dtype) if isinstance(dtype, str) else dtype).itemsize
