"""The package's part of a checkpoint: plain tensors in one safetensors file, marked with the run they belong to."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egup_trainer.errors import StateError
from egup_trainer.files import write_file_with
from egup_trainer.trainer.mixed_in import MixedIn
from egup_trainer.trainer.scanning import ScanRequest

STATE_NAME = "egup_state.safetensors"
_RUN = "run"
_OPTIONS: tuple[str, ...] = (
    "objective",
    "inter_entanglement",
    "intra_entanglement",
    "proxy_constraint",
    "proxy_match",
    "proxy_neighbors",
    "proxy_reference",
    "npo_beta",
    "kl_top_k",
)
_OPTIONS += ("cache_dim", "bank_size", "seed", "train_sampling_strategy")


class StateInCheckpoints(MixedIn):
    """Saves and restores `training_state` with the checkpoints of a `transformers.Trainer`.

    It is that of the `state_keepers`, objects with `state_dict` and `load_state_dict`. It is saved and restored on
    every process: for each checkpoint before old ones are removed and anything is uploaded, and before the first step
    of a resumed run.
    """

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            save_state(self.training_state(), output_dir, self.run_digest())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.has_training_state():
            self.load_training_state(load_state(checkpoint, self.args.device, self.run_digest()))

    def training_state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs, the same on every process."""
        return {name: tensor for keeper in self.state_keepers() for name, tensor in keeper.state_dict().items()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Takes over the tensors of a checkpoint."""
        for keeper in self.state_keepers():
            keeper.load_state_dict(state)


def digest_of_run(requests: dict[str, ScanRequest], args: Any, layer: int) -> str:
    """Digest of what a training state belongs to: the rows, and each option that decides what the tensors mean."""
    digest = hashlib.sha256(repr([layer, *((name, str(getattr(args, name, None))) for name in _OPTIONS)]).encode())
    for name, request in sorted(requests.items()):
        digest.update(f"{name}: {len(request.dataset)} rows, features {request.with_features}".encode())
        for row in request.dataset.rows:
            digest.update(row.key())
    return digest.hexdigest()


def save_state(state: dict[str, Tensor], folder: str, run: str) -> None:
    """Writes the tensors into a checkpoint folder, readable by the user alone; nothing if there are none.

    Args:
        run: digest of rows and options that the tensors belong to.
    """
    from safetensors.torch import save_file

    if state:
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        write_file_with(Path(folder) / STATE_NAME, lambda path: save_file(tensors, path, {_RUN: run}))


def load_state(folder: str, device: torch.device, run: str) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint.

    Raises:
        StateError: the checkpoint has none, or those of a run on other rows or with other options.
    """
    from safetensors import safe_open

    path = Path(folder) / STATE_NAME
    if not path.is_file():
        raise StateError(
            got=f"the checkpoint {folder} without {STATE_NAME}",
            expected="a checkpoint of this trainer, saved without save_only_model",
            fix="resume from another one, or start anew",
        )
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get(_RUN) != run:
            raise StateError(
                got=f"the checkpoint {folder} of a run on other rows or with other options of the method",
                expected="the same forget, retain and proxy rows, objective, and parts of EGUP and CLReg",
                fix="resume with what the run was started with, or start anew",
            )
        return {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
