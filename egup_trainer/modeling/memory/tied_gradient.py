"""The gradient of a tied embedding in one tensor.

If the output embedding is the input embedding, autograd makes one gradient of the size of the vocabulary for each of
them, and a third one for their sum. Here the backward pass of the lookup gets the gradient of the output embedding, and
adds its few rows to it.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, linear
from torch.overrides import TorchFunctionMode

_LOOKUP = inspect.signature(embedding)


class TiedGradient(TorchFunctionMode):
    """Within it, a lookup in a trained weight and the projection by the same weight make one gradient.

    One object serves one forward pass. Everything else is unchanged: other weights, frozen weights, and lookups that
    change or scale the weight. The gradient has the values that autograd would give.

    Example:
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> with TiedGradient():
        ...     hidden = embedding(torch.tensor([1]), weight)
        ...     logits = linear(hidden, weight)
        >>> logits.sum().backward()
        >>> weight.grad
        tensor([[0., 1., 0.],
                [1., 2., 1.],
                [0., 1., 0.]])
    """

    def __init__(self) -> None:
        super().__init__()
        self._weight: Tensor | None = None
        self._alias: Tensor | None = None

    def around(self, forward: Callable) -> Callable:
        """The forward of a module within it; under torch.compile, which sees both gradients itself, as it was."""

        def within(*args: Any, **kwargs: Any) -> Any:
            with nullcontext() if torch.compiler.is_compiling() else self:
                return forward(*args, **kwargs)

        return within

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is embedding:
            found = _LOOKUP.bind(*args, **kwargs)
            found.apply_defaults()
            if _is_plain(found.arguments):
                self._weight = found.arguments["weight"]
                ids, padding = found.arguments["input"], found.arguments["padding_idx"]
                embedded, self._alias = _Lookup.apply(self._weight, ids, padding)
                return embedded
        if func is linear and self._weight is not None and _weight_alone(*args, **kwargs) is self._weight:
            return _Projection.apply(args[0], self._alias)
        return func(*args, **kwargs)


def _weight_alone(*args: Any, **kwargs: Any) -> Tensor | None:
    """The weight of a projection without a bias, as layers call it; None for other calls."""
    return args[1] if not kwargs and len(args) > 1 and args[2:] in ((), (None,)) else None


def _is_plain(lookup: dict[str, Any]) -> bool:
    weight = lookup["weight"]
    special = lookup["max_norm"] is not None or lookup["scale_grad_by_freq"] or lookup["sparse"]
    is_local = type(weight) in (Tensor, torch.nn.Parameter)
    return is_local and weight.requires_grad and torch.is_grad_enabled() and not special


class _Lookup(torch.autograd.Function):
    """Returns the weight, too: the gradient of the projection comes back through it, before that of the lookup."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        ctx.padding = None if padding is None else padding % len(weight)
        return embedding(ids, weight), weight.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, total: Tensor | None) -> tuple[Tensor | None, None, None]:
        if upstream is None:
            return total, None, None
        (ids,) = ctx.saved_tensors
        used, places = ids.unique(return_inverse=True)
        rows = torch.ops.aten.embedding_dense_backward(upstream, places, len(used), -1, False)
        if ctx.padding is not None:
            rows[used == ctx.padding] = 0
        if total is None:
            total = upstream.new_zeros(ctx.shape, dtype=ctx.dtype)
        # Each row once, so that the sum is the same in every run, also on a GPU.
        return total.index_add_(0, used, rows.to(total.dtype)), None, None


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return linear(hidden, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight = ctx.saved_tensors
        rounded = hidden.to(upstream.dtype)  # autocast computed in this type
        gradient = (upstream.flatten(0, -2).t() @ rounded.flatten(0, -2)).to(weight.dtype)
        return (upstream @ weight.to(upstream.dtype)).to(hidden.dtype), gradient
