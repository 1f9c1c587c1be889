"""Sizes of quantized weights and of optimizer states, in bytes."""

from collections.abc import Iterable
from math import ceil, prod
from typing import Any

from torch import Tensor

STATES: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "stable_adamw"), (2, None)),
    **dict.fromkeys(("adagrad", "rmsprop"), (1, None)),
    "sgd": (0, None),
    "paged_adamw_32bit": (2, 4),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_32bit"), (1, 4)),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit"), (2, 1)),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), (1, 1)),
}
"""For each optimizer: numbers of its state per trained weight, and bytes per number; None for those of the weight."""

_BLOCK, _LEAST_8BIT = 256, 4096
"""8-bit states of bitsandbytes: numbers that share a float32 scale; smaller weights have a float32 state."""


def bytes_of_optimizer(optim: str, shapes: Iterable[tuple[tuple[int, ...], int]]) -> int | None:
    """Size of the state of an optimizer, or None if it is not known.

    Args:
        optim: as in `TrainingArguments`.
        shapes: the shape of each trained weight, and the bytes per number.

    Example:
        >>> bytes_of_optimizer("adamw_torch", [((10, 10), 4)]), bytes_of_optimizer("sgd", [((10, 10), 4)])
        (800, 0)
        >>> bytes_of_optimizer("adamw_8bit", [((64, 64), 4), ((10,), 4)])  # 2 * (4096 + 4 * 16), 2 * 4 * 10
        8400
    """
    if optim == "adafactor":  # mean squares over rows and over columns; of a vector, of each number
        return 4 * sum(
            prod(shape[:-1]) + prod((*shape[:-2], shape[-1])) if len(shape) > 1 else prod(shape) for shape, _ in shapes
        )
    if optim not in STATES:
        return None
    states, width = STATES[optim]
    return sum(states * _bytes_of_state(prod(shape), width or own) for shape, own in shapes)


def _bytes_of_state(size: int, width: int) -> int:
    if width > 1:
        return width * size
    return 4 * size if size < _LEAST_8BIT else size + 4 * ceil(size / _BLOCK)


def bytes_of_packed(weight: Tensor, quantization: Any) -> int:
    """Size of the weight of a linear layer in 4 or 8 bits, by a `BitsAndBytesConfig`."""
    if quantization.load_in_4bit:
        return bytes_of_4bit(weight.numel(), quantization.bnb_4bit_use_double_quant)
    return weight.shape[0] * (weight.shape[1] + 4)  # one byte per number, a float32 scale per output


def bytes_of_4bit(weights: int, double_quant: bool = False) -> int:
    """Size of weights in 4 bits, as bitsandbytes stores them (Dettmers et al. 2023, arXiv 2305.14314).

    Formula: n / 2 bytes, a float32 scale per 64 numbers, and the 16 float32 values of the codes. With `double_quant` a
    scale is one byte, 256 of them share a float32 scale, and 256 float32 values and a float32 mean are stored, too.

    Example:
        >>> bytes_of_4bit(64 * 256), bytes_of_4bit(64 * 256, double_quant=True)
        (9280, 9544)
    """
    blocks = ceil(weights / 64)
    scales = blocks + 4 * ceil(blocks / 256) + 4 * (256 + 1) if double_quant else 4 * blocks
    return ceil(weights / 2) + scales + 4 * 16
