"""What a reader hangs on a model's modules for the length of a call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def capture(into: list[Tensor]) -> Callable:
    """A forward hook that keeps a module's output."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        into.append(output[0] if isinstance(output, tuple) else output)

    return hook


@contextmanager
def hooked(register: Callable, hook: Callable, **options: Any) -> Iterator[None]:
    """The hook is registered, and removed at the end."""
    handle = register(hook, **options)
    try:
        yield
    finally:
        handle.remove()


def is_gathered_by_hooks(module: nn.Module) -> bool:
    """Whether its weights are there in the backward pass only if its output has a gradient (DeepSpeed ZeRO-3)."""
    return any(hasattr(weight, "ds_id") for weight in module.parameters())


@contextmanager
def forward_through(module: nn.Module, wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """The module with its forward wrapped."""
    own, forward = module.__dict__.get("forward"), module.forward
    module.forward = wrap(forward)
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.forward = own
