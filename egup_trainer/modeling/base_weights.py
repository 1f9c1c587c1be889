"""Which weights an adapter was trained on: a digest that is quick to make and does not depend on how files are cut."""

import hashlib
from functools import cache
from pathlib import Path

_SAMPLES = 64
"""Most slices along the first dimension that are read of a tensor."""


def weights_digest(name_or_path: str | Path) -> str | None:
    """Digest of the weights in a local folder; None for a hub id, whose revision an adapter names, and without files.

    It covers name, type and shape of each tensor and evenly spaced slices of its values. Another model, another step of
    its training and another precision have other digests; a change of single rows between the slices goes unseen.

    Example:
        >>> weights_digest("no/such/folder") is None
        True
    """
    folder = Path(name_or_path)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return _digest(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)) if files else None


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The digest of files as they were then: records of a run's checkpoints ask for the same one again."""
    import torch
    from safetensors import safe_open

    tensors: dict[str, bytes] = {}
    for path, _, _ in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                shape = part.get_shape()
                facts = f"{name} {part.get_dtype()} {shape}".encode()
                for place in range(0, shape[0] if shape else 1, max(1, (shape[0] if shape else 1) // _SAMPLES)):
                    values = part[place : place + 1] if shape else file.get_tensor(name)
                    facts += values.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                tensors[name] = hashlib.sha256(facts).digest()
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()
