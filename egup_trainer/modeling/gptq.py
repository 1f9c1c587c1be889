"""GPTQ: rounding weights so that the outputs change little on calibration rows (Frantar et al. 2022, arXiv 2210.17323).

One column of a weight matrix is rounded after the other, and what each rounding changes in the output is made up for
by the columns that are not rounded yet. Columns are rounded in their own order. Nothing is packed: the rounded weights
are floating-point numbers again, which any layer can use.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from egup_trainer.modeling.forward import decoder_layers

BITS, GROUP, DAMPING = 4, 128, 0.01
"""Of the paper's experiments: 4 bits, a grid for every 128 inputs, 1% of the mean of the Hessian's diagonal added."""


def round_to_grid(columns: Tensor, grid: tuple[Tensor, Tensor], bits: int = BITS) -> Tensor:
    """The nearest points of each row's grid: scale * (clamp(round(w / scale) + zero, 0, 2^bits - 1) - zero).

    Args:
        columns: weights w, shape (O, k).
        grid: scale and zero of each row, each of shape (O, 1), as `grid_of` returns them.

    Example:
        >>> round_to_grid(torch.tensor([[0.4, 14.6]]), (torch.ones(1, 1), torch.zeros(1, 1)))
        tensor([[ 0., 15.]])
    """
    scale, zero = grid
    return scale * ((columns / scale).round().add(zero).clamp(0, 2**bits - 1) - zero)


def grid_of(group: Tensor, bits: int = BITS) -> tuple[Tensor, Tensor]:
    """Scale and zero of evenly spaced points from the smallest weight of a row (or 0) to its largest (or 0).

    Args:
        group: weights, shape (O, k).
        bits: the grid has 2^bits points.

    Returns:
        scale = (max - min) / (2^bits - 1) and zero = round(-min / scale), each of shape (O, 1).

    Example:
        >>> grid_of(torch.tensor([[0.0, 3.0, 15.0]]))
        (tensor([[1.]]), tensor([[-0.]]))
    """
    low, high = group.amin(dim=1, keepdim=True).clamp(max=0), group.amax(dim=1, keepdim=True).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, 1.0)  # a row of zeros
    return scale, (-low / scale).round()


def gptq_round(
    weight: Tensor, hessian: Tensor, bits: int = BITS, group: int = GROUP, damping: float = DAMPING
) -> Tensor:
    """Weights rounded so that |W X - W' X|^2 stays small.

    With U the upper Cholesky factor of (H + damping mean(diag H) I)^-1 and columns j in order: W'_j = round(W_j), then
    W_k <- W_k - (W_j - W'_j) U_jk / U_jj for all k > j. The grid of a group is set when its first column is reached.

    Args:
        weight: W, shape (O, I), float32.
        hessian: H = X X^T of the layer's inputs, shape (I, I).
        group: inputs that share a grid; the last group may be smaller.
        damping: added to the diagonal, as a share of its mean.

    Returns:
        The rounded weights, shape (O, I), float32. With inputs that are not correlated, each is the nearest point of
        its group's grid.

    Example:
        >>> gptq_round(torch.tensor([[0.0, 7.4, 15.0]]), torch.eye(3))
        tensor([[ 0.,  7., 15.]])
    """
    left, rounded = weight.float().clone(), torch.empty_like(weight, dtype=torch.float32)
    damped = hessian.double().clone()
    added = damping * damped.diagonal().mean()
    damped.diagonal().add_(added if added > 0 else 1.0)  # inputs that are all 0 tell nothing
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    for start in range(0, weight.shape[1], group):
        end = min(start + group, weight.shape[1])
        grid, errors = grid_of(left[:, start:end], bits), torch.empty_like(left[:, start:end])
        for j in range(start, end):
            rounded[:, j : j + 1] = round_to_grid(left[:, j : j + 1], grid, bits)
            error = (left[:, j] - rounded[:, j]) / upper[j, j]
            left[:, j:end] -= torch.outer(error, upper[j, j:end])
            errors[:, j - start] = error
        left[:, end:] -= errors @ upper[start:end, end:]  # the other groups at once
    return rounded


@torch.no_grad()
def gptq_copy(model: nn.Module, rows: Sequence[Tensor], **options: Any) -> Any:
    """A copy of a model whose decoder layers have rounded weights, on the same device, in float32.

    The decoder layers are rounded one after the other, each with the inputs that it gets from the rounded ones before
    it. Embeddings and output layer stay as they are.

    Args:
        model: a model of floating-point weights, without adapters; it is not changed.
        rows: token ids of the calibration rows, each of shape (T,); each is read alone, without padding.
        options: `bits`, `group` and `damping` of `gptq_round`.

    Raises:
        RuntimeError: the decoder layers have no linear layers, or H cannot be inverted.

    Example:
        >>> # rounded = gptq_copy(model, [torch.tensor([1, 2, 3]), torch.tensor([4, 5])])
    """
    twin: Any = copy.deepcopy(model).float().eval()
    layers = [
        {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear | Conv1D)}
        for layer in decoder_layers(twin)
    ]
    if not any(layers):
        raise RuntimeError("no layer of the model can be quantized")
    device = next(twin.parameters()).device
    for parts in layers:
        for name, hessian in _hessians(twin, parts, [row.to(device) for row in rows]).items():
            part = parts[name]
            transposed = isinstance(part, Conv1D)  # of GPT-2: (I, O)
            weight = part.weight.T if transposed else part.weight
            rounded = gptq_round(weight, hessian, **options)
            part.weight.copy_(rounded.T if transposed else rounded)
    return twin


def _hessians(model: Any, parts: Mapping[str, nn.Module], rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """H = X X^T over all tokens of the rows, for each of the linear layers, by name; zeros for one that is not used."""
    found: dict[str, Tensor] = {}

    def adds_to(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs = args[0].flatten(0, -2)
            found[name] = found[name] + inputs.T @ inputs if name in found else inputs.T @ inputs

        return hook

    hooks = [part.register_forward_pre_hook(adds_to(name)) for name, part in parts.items()]
    try:
        for row in rows:
            model(input_ids=row[None].long())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: found.get(name, _no_inputs(part)) for name, part in parts.items()}


def _no_inputs(part: Any) -> Tensor:
    size = part.weight.shape[0 if isinstance(part, Conv1D) else 1]
    return torch.zeros(size, size, device=part.weight.device)
