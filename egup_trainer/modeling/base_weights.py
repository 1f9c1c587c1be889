"""A digest of the weights that an adapter was trained on: quick, and independent of how files are sharded."""

import hashlib
from functools import cache
from pathlib import Path

_SAMPLES = 64
"""At least so many slices along the first dimension are read of a tensor that has as many, and fewer than twice as
many."""


def weights_digest(name_or_path: str | Path) -> str | None:
    """Digest of the weights in a local folder; None without files, or for a hub id, which has a revision instead.

    It covers the name, type and shape of each tensor and evenly spaced slices of its values. Another model, training
    step or precision gives another digest; a change of single rows between the slices is not noticed.

    Example:
        >>> weights_digest("no/such/folder") is None
        True
    """
    folder = Path(name_or_path)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return _digest(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)) if files else None


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Cached, since each checkpoint of a run asks for the digest of the same files."""
    import torch
    from safetensors import safe_open

    tensors: dict[str, bytes] = {}
    for path, _, _ in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                shape = part.get_shape()
                facts = f"{name} {part.get_dtype()} {shape}".encode()
                rows = shape[0] if shape else 1
                for row in range(0, rows, max(1, rows // _SAMPLES)):
                    values = part[row : row + 1] if shape else file.get_tensor(name)
                    facts += values.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                tensors[name] = hashlib.sha256(facts).digest()
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()
