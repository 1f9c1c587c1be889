"""Warns about weights that a run did not change: an update below the precision of a weight is rounded away."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from egup_trainer.components.scanning import is_spread_over_processes
from egup_trainer.records.judgments import UNMOVED_ABOVE

logger = logging.getLogger(__name__)

MOST_ENTRIES = 4096
"""Entries of a tensor that are compared."""


@dataclass(frozen=True)
class WeightSample:
    """Entries of a weight as they were: `values`, at these `places` of the flattened weight, shape (n,) each."""

    weight: nn.Parameter
    places: Tensor
    values: Tensor

    @classmethod
    def draw(cls, weight: nn.Parameter, generator: torch.Generator) -> "WeightSample":
        """All entries of a small weight; `MOST_ENTRIES` entries of a large one, sampled with replacement."""
        size = weight.numel()
        drawn = size > MOST_ENTRIES
        places = torch.randint(size, (MOST_ENTRIES,), generator=generator) if drawn else torch.arange(size)
        return cls(weight, places, _entries(weight, places))

    @property
    def unmoved(self) -> float:
        """Share of the entries that are now what they were."""
        return (_entries(self.weight, self.places) == self.values).float().mean().item()


def sample_weights(model: nn.Module, seed: int) -> list[WeightSample]:
    """Samples of all trainable weights but embeddings.

    Rows of an embedding whose tokens (or positions) never occur do not move in any run, and would hide the rest. A
    vocabulary's output embedding is left out with them: the two are often one, and its rows hardly move either.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    tables += [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[operator]
    left_out = {id(weight) for table in tables for weight in table.parameters()}
    generator = torch.Generator().manual_seed(seed)
    weights = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in left_out]
    return [WeightSample.draw(weight, generator) for weight in weights]


def share_unmoved(samples: list[WeightSample]) -> float:
    """Estimated share of weights that are what they were: each tensor's share, weighted by its size."""
    whole = sum(sample.weight.numel() for sample in samples)
    return sum(sample.weight.numel() * sample.unmoved for sample in samples) / whole


class WatchMovement(TrainerCallback):
    """Logs at the end of training, as `weights_unmoved`, which share of the trainable weights did not move.

    Above 0.9 it warns. Counted from where `train` began: after a resume that is the checkpoint, not the model before
    unlearning. It is not logged if weights are spread over processes (FSDP, ZeRO-3), nor if no step was taken.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._samples: list[WeightSample] = []
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps a sample of the weights."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
        self._samples = [] if is_spread_over_processes(model) else sample_weights(model, args.seed)
        self._first_step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Measures after the last step, where Trainer sums up the run: in `on_train_end` trackers may have closed."""
        if not self._samples or "train_runtime" not in logs or state.global_step == self._first_step:
            return
        share = share_unmoved(self._samples)
        if share > UNMOVED_ABOVE and state.is_world_process_zero:
            kinds = ", ".join(sorted({str(sample.weight.dtype).removeprefix("torch.") for sample in self._samples}))
            logger.warning(
                f"{share:.1%} of the trainable weights ({kinds}) did not change during training: train float32 weights "
                "(dtype float32, with bf16 for autocast) or raise the learning rate."
            )
        self._samples = []
        self.trainer.log({"weights_unmoved": share})


def _entries(weight: nn.Parameter, places: Tensor) -> Tensor:
    return weight.detach().flatten()[places.to(weight.device)].cpu()
