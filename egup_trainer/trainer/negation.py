"""Task-vector negation: once training ends, the model goes as far in the opposite direction."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from egup_trainer.errors import ConfigError, ModelError, StateError
from egup_trainer.modeling.reference import adapters_are_identity


class TaskVectorNegation(TrainerCallback):
    """Turns what a run has learned round at its end: theta <- theta_0 - scale * (theta - theta_0).

    A LoRA adapter's own update is multiplied by -scale, through its second factor; the model below it stays as it is.
    The weights that the trainer is made with are theta_0: a resumed run is made with the same model, and takes what it
    has learned from the checkpoint. Checkpoints hold the model that learned the rows, before negation.

    Args:
        trainer: an `UnlearnTrainer`, before training.

    Raises:
        ConfigError: weights are spread over processes.
        ModelError: the adapter is not a fresh LoRA adapter.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.is_done = trainer, False
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ConfigError(
                got="objective=task_vector with weights spread over processes",
                expected="whole weights on each process, to subtract what was learned",
                fix="run it on one process or with DDP, or train an adapter on one GPU",
            )
        check_adapter(trainer.model)
        trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
        self._start = {name: weight.detach().cpu().clone() for name, weight in trained.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_done:
            raise StateError(
                got="a second training after the task vector was negated",
                expected="one training, at whose end what was learned is turned round",
                fix="make a new trainer",
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        negate(self.trainer.accelerator.unwrap_model(self.trainer.model), self._start, args.task_vector_scale)
        self.is_done = True


@torch.no_grad()
def negate(model: nn.Module, start: dict[str, Tensor], scale: float) -> None:
    """Sets the weights of a trained model to start - scale * (weight - start), those of LoRA's product to that product.

    Args:
        model: the bare model after training.
        start: the weights that were trained, by name, as they were before.
        scale: how far to go back.
    """
    for name, weight in model.named_parameters():
        if name not in start or ".lora_A." in name or ".lora_embedding_A." in name:
            continue
        before = torch.zeros_like(weight) if ".lora_" in name else start[name].to(weight.device)
        weight.copy_(before.float() - scale * (weight.float() - before.float()))


def check_adapter(model: Any) -> None:
    """Raises `ModelError` if the model has an adapter whose update is not a product of two factors that start at 0."""
    configs = getattr(model, "peft_config", {})
    if not configs:
        return
    if any(getattr(config, "use_dora", False) for config in configs.values()) or not adapters_are_identity(model):
        raise ModelError(
            got="objective=task_vector with an adapter that is not a fresh LoRA adapter",
            expected="a new LoRA adapter without DoRA and without biases, whose own update can be negated",
            fix="give the plain model and --use_peft, or train without an adapter",
        )
