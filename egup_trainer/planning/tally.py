"""How many bytes tensors hold as code runs on them, and how many at most."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tally(TorchDispatchMode):
    """Within it, every new tensor counts until it is gone. It reads no values: fake tensors, which have none, will do.

    Args:
        known: tensors that are there before, and do not count.
        kind_of: names the part that a new tensor counts as.

    Attributes:
        peak: most bytes held at a time.
        at_peak: what they were, by part.

    Example:
        >>> import torch
        >>> with Tally() as tally:
        ...     first = torch.zeros(100)
        ...     sum_of_it = (first + 1).sum()  # 400 bytes that are gone, and 4
        >>> tally.peak, tally.now
        (804, 404)
    """

    def __init__(self, known: Iterable[Tensor] = (), kind_of: Callable[[Tensor], str] = lambda tensor: "tensors"):
        super().__init__()
        self._kind_of = kind_of
        self._live: dict[int, tuple[str, int]] = {}
        self._held: Counter[str] = Counter()
        self.now = self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._known = [tensor.untyped_storage() for tensor in known]
        self._known_keys = {storage._cdata for storage in self._known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        return result

    def label(self, tensor: Tensor, kind: str) -> None:
        """Counts a tensor as another part from now on."""
        key = tensor.untyped_storage()._cdata
        if key in self._live:
            old, size = self._live[key]
            self._held[old] -= size
            self._held[kind] += size
            self._live[key] = kind, size

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known_keys or key in self._live:
            return
        kind, size = self._kind_of(tensor), storage.nbytes()
        self._live[key] = kind, size
        self._held[kind] += size
        self.now += size
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, dict(self._held)
        weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        kind, size = self._live.pop(key)
        self._held[kind] -= size
        self.now -= size
