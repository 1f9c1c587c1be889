"""A compact table of unit vectors, one per sample. A step reads and writes a few of its rows."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor
from torch.nn.functional import normalize

from egup_trainer.errors import StateError

_IN_MEMORY = 1 << 26
"""Bytes in float16 up to which a table is kept beside the model: 64 MB."""

_ROWS = 1 << 16
"""Rows that are packed at a time."""


@dataclass(frozen=True)
class TableStorage:
    """Where per-sample tables are kept.

    Args:
        folder: where the file of a large table is made, which is mapped into memory. The file has no name and is gone
            when the run ends, however it ends.
    """

    device: torch.device = torch.device("cpu")
    folder: Path | None = None

    def allocate(self, rows: int, size: int) -> Tensor:
        """An empty table, (N, k) for `rows`, `size`: float16 on the device, or int8 in a file if it is large."""
        if self.folder is None or 2 * rows * size <= _IN_MEMORY:
            return torch.empty(rows, size, dtype=torch.float16, device=self.device)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NamedTemporaryFile(dir=self.folder) as file:  # readable by the user alone
            _reserve(file.fileno(), rows * size, self.folder)
            return torch.from_file(file.name, shared=True, size=rows * size, dtype=torch.int8).view(rows, size)


def _reserve(handle: int, size: int, folder: Path) -> None:
    """Makes a file as large as it will be: writing to a mapping without room on the disk would end the process.

    Raises:
        StateError: the disk has no room for a file of that size.
    """
    try:
        os.ftruncate(handle, size)
        if hasattr(os, "posix_fallocate"):  # not on a Mac, nor on Windows
            os.posix_fallocate(handle, 0, size)
    except OSError as error:
        raise StateError(
            got=f"no room for a table of {size / 1e6:.0f} MB in {folder} ({error.strerror})",
            expected="room for the features of all samples",
            fix="free some space, or set --scan_cache_dir to a folder on another disk",
        ) from error


class FeatureTable:
    """Unit vectors phi of N samples, shape (N, k). Cosines to them are off by up to 1e-5 in float16, and by some 1e-4
    in int8.

    Args:
        codes: the vectors as they are kept, shape (N, k): float16, or int8 with 127 as the largest of each row.

    Example:
        >>> table = FeatureTable.of(torch.eye(3))
        >>> table[torch.tensor([2])]
        tensor([[0., 0., 1.]])
    """

    def __init__(self, codes: Tensor):
        self.codes = codes

    @classmethod
    def of(cls, features: Tensor, storage: TableStorage | None = None) -> "FeatureTable":
        """A table of unit vectors, shape (N, k)."""
        table = cls((storage or TableStorage(features.device)).allocate(*features.shape))
        for rows in torch.arange(len(features), device=features.device).split(_ROWS):
            table[rows] = features[rows]
        return table

    def __getitem__(self, ids: Tensor) -> Tensor:
        """phi of samples (B,): (B, k), float32, on the device of `ids`."""
        return normalize(self.codes[ids.to(self.codes.device)].to(ids.device).float(), dim=-1)

    def __setitem__(self, ids: Tensor, features: Tensor) -> None:
        if self.codes.dtype == torch.int8:
            largest = features.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            features = (features / largest * 127).round()
        self.codes[ids.to(self.codes.device)] = features.to(self.codes.device, self.codes.dtype)

    @classmethod
    def from_checkpoint(cls, codes: Tensor, storage: TableStorage) -> "FeatureTable":
        """The table whose codes a checkpoint holds."""
        return cls(storage.allocate(*codes.shape).copy_(codes))
