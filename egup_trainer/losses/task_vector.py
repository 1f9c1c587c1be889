"""Task-vector negation: learn the forget rows, then move the weights the other way."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from egup_trainer.errors import ConfigError, ModelError, StateError, check_range
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.reference import adapters_are_identity
from egup_trainer.options import OptionGroup, option


@dataclass
class TaskVectorOptions(OptionGroup):
    """Options of `TaskVector`."""

    task_vector_scale: float = option(
        1.0, "Task vector: how far to move back, as a multiple of what was learned; above 0."
    )

    def check_options(self) -> None:
        check_range(self, ("task_vector_scale",), low=0, low_is_allowed=False)


class TaskVector(ForgetLoss):
    """The training of a task vector (Ilharco et al. 2023, arXiv 2212.04089), which is negated once training ends.

    Formula: l_i, the mean negative log-likelihood per answer token: rows are learned. At the end of training
    `NegateTaskVector` sets the weights to theta_0 - scale * (theta - theta_0).

    Args:
        scale: how far to move back, as a multiple of what was learned.

    Requirements: whole weights on each process (no FSDP, no ZeRO-3); with an adapter, a fresh LoRA adapter without
    DoRA and biases.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Recommendations:
        - As a baseline, with few epochs and a small learning rate, because everything that was learned is subtracted.

    Relations:
        - EGUP and CLReg cannot be combined with it: their effect would be negated as well.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([-1.0, -3.0]), torch.tensor([0, 0]), torch.tensor([2.0]))
        >>> TaskVector()(out, ReferenceOutputs())
        tensor([2.])
    """

    supports = frozenset()
    unsupported_reason = "the weights are negated at the end of training, and with them the effect of these"
    raises_nll = False
    default_retain_loss = "none"
    config_fields: ClassVar[dict[str, str]] = {"scale": "task_vector_scale"}

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    @classmethod
    def check_config(cls, config: Any) -> None:
        name, until_the_end = f"objective={config.objective}", "until training ends, the model learns the forget rows"
        if config.retain_loss != "none":
            raise ConfigError(
                got=f"{name} with retain_loss={config.retain_loss}",
                expected="no retain loss: what is learned of retain rows would be negated, too",
                fix="leave out --retain_loss",
            )
        if config.eval_strategy.value != "no":
            raise ConfigError(
                got=f"{name} with eval_strategy={config.eval_strategy.value}",
                expected=f"no evaluations during training: {until_the_end}",
                fix="evaluate after training (egup evaluate)",
            )
        if config.push_to_hub and config.hub_strategy.value != "end":
            raise ConfigError(
                got=f"{name} with hub_strategy={config.hub_strategy.value}",
                expected=f"end: {until_the_end}",
                fix="set --hub_strategy end",
            )
        if getattr(config, "stop_at_boundary", False):
            raise ConfigError(
                got=f"{name} with stop_at_boundary",
                expected=f"one of the two: {until_the_end} and moves away from the boundary",
                fix="leave out --stop_at_boundary",
            )

    def callbacks(self, trainer: Trainer) -> list[TrainerCallback]:
        return [NegateTaskVector(trainer, self.scale)]

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return outputs.mean_nll


class NegateTaskVector(TrainerCallback):
    """Negates at the end of training what was learned: theta <- theta_0 - scale * (theta - theta_0).

    The update of a LoRA adapter is multiplied by -scale, through its second factor; the model below it does not change.
    The weights that the trainer is made with are theta_0: a resumed run is made with the same model, and loads what it
    has learned from the checkpoint. Checkpoints hold the model that learned the rows, before negation.

    Raises:
        ConfigError: weights are spread over processes.
        ModelError: the adapter is not a fresh LoRA adapter.
    """

    def __init__(self, trainer: Trainer, scale: float):
        self.trainer, self.scale, self.is_done = trainer, scale, False
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ConfigError(
                got="objective=task_vector with weights spread over processes",
                expected="whole weights on each process, to subtract what was learned",
                fix="run it on one process or with DDP, or train an adapter on one GPU",
            )
        model: Any = trainer.model
        check_adapter(model)
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._start = {name: weight.detach().cpu().clone() for name, weight in trained.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_done:
            raise StateError(
                got="a second training after the task vector was negated",
                expected="one training, at the end of which what was learned is negated",
                fix="make a new trainer",
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        negate(self.trainer.accelerator.unwrap_model(self.trainer.model), self._start, self.scale)
        self.is_done = True


@torch.no_grad()
def negate(model: nn.Module, start: dict[str, Tensor], scale: float) -> None:
    """Sets the weights of a trained model to start - scale * (weight - start), those of LoRA's product to that product.

    Args:
        start: the weights that were trained, by name, as they were before.
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
