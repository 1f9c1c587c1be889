"""The package's part of a checkpoint: plain tensors in one safetensors file."""

from pathlib import Path

import torch
from torch import Tensor

from egup_trainer.errors import StateError

STATE_NAME = "egup_state.safetensors"


def save_state(state: dict[str, Tensor], folder: str) -> None:
    """Writes the tensors into a checkpoint folder; nothing if there are none."""
    from safetensors.torch import save_file

    if state:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, Path(folder) / STATE_NAME)


def load_state(folder: str, device: torch.device) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint.

    Raises:
        StateError: the checkpoint has none.
    """
    from safetensors.torch import load_file

    path = Path(folder) / STATE_NAME
    if not path.is_file():
        raise StateError(
            got=f"the checkpoint {folder} without {STATE_NAME}",
            expected="a checkpoint of this trainer, saved without save_only_model",
            fix="resume from another one, or start anew",
        )
    return load_file(path, device=str(device))
