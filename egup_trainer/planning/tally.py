"""Counts the bytes of the tensors that exist while code runs, and their largest sum."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tally(TorchDispatchMode):
    """Within it, every new tensor counts until it is freed. It reads no values, so that it can count fake tensors.

    Args:
        known: tensors that exist before, and do not count.
        part_of: names the part that a new tensor belongs to.

    Attributes:
        now: bytes that are held.
        peak: most bytes that were held at a time.
        at_peak: these bytes by part.

    Example:
        >>> import torch
        >>> with Tally() as tally:
        ...     first = torch.zeros(100)
        ...     total = (first + 1).sum()  # 400 bytes that are freed, and 4
        >>> tally.peak, tally.now
        (804, 404)
    """

    def __init__(self, known: Iterable[Tensor] = (), part_of: Callable[[Tensor], str] = lambda tensor: "tensors"):
        super().__init__()
        self._part_of = part_of
        self._live: dict[int, tuple[str, int]] = {}
        self._held: Counter[str] = Counter()
        self.now = self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._known = {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in known)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        return result

    def label(self, tensor: Tensor, part: str) -> None:
        """Counts a tensor to another part from now on."""
        key = tensor.untyped_storage()._cdata
        if key in self._live:
            old, size = self._live[key]
            self._held[old] -= size
            self._held[part] += size
            self._live[key] = part, size

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._live:
            return
        part, size = self._part_of(tensor), storage.nbytes()
        self._live[key] = part, size
        self._held[part] += size
        self.now += size
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, dict(self._held)
        weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        part, size = self._live.pop(key)
        self._held[part] -= size
        self.now -= size
