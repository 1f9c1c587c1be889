"""A range test: what rising learning rates do to forget rows, after which the weights are put back.

Its steps are rate * sign(gradient), as Adam's first step is. They need no state of an optimizer, and hence less memory
than training does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

NUM_STEPS = 4
"""Steps whose pairs are used again and again, so that each is compared with itself."""


@dataclass(frozen=True)
class Trial:
    """What the forward pass of one step of a range test shows.

    Args:
        moved: the sum of the learning rates of the steps before it, the most that a weight has moved by.
        forget_rise: how far the mean l of the step's forget rows has risen since they were first read, nats per token.
    """

    moved: float
    forget_rise: float


def range_test(trainer: Any, rates: Sequence[float], is_enough: Callable[[Trial], bool]) -> list[Trial]:
    """Takes a step at each learning rate, until a forward pass shows enough, and puts the weights back bit by bit.

    Args:
        trainer: an `UnlearnTrainer` that is about to train.
        is_enough: whether what a forward pass shows ends the test.

    """
    device, size = trainer.args.device, trainer.args.gradient_accumulation_steps
    first: list[float] = []
    trials: list[Trial] = []
    with _put_back(trainer) as trained:
        loader = iter(trainer.get_train_dataloader())
        steps = [batches for _ in range(NUM_STEPS) if (batches := list(islice(loader, size)))]
        for index, rate in enumerate(rates):
            collected = _read_step(trainer, steps[index % len(steps)], size, device)
            now = trainer.accelerator.reduce(collected.sums["forget_nll"], "sum").item()
            first += [now] if index < len(steps) else []
            trials.append(Trial(sum(rates[:index]), now - first[index % len(steps)]))
            if is_enough(trials[-1]):
                break
            with torch.no_grad():
                for weight in trained:
                    if weight.grad is not None:
                        weight.add_(weight.grad.sign(), alpha=-rate)
            trainer.model_wrapped.zero_grad()
    return trials


def _read_step(trainer: Any, step: list[Any], size: int, device: torch.device) -> Any:
    """The gradients of a step, and what its forward passes show.

    As in the first steps of a training, the factor by which fp16 multiplies the loss is halved until they are finite.
    """
    scaler = trainer.accelerator.scaler
    while True:
        batches, collected = trainer.get_batch_samples(iter(step), size, device)
        trainer.current_gradient_accumulation_steps = len(batches)
        for batch in batches:
            trainer.training_step(trainer.model_wrapped, batch, collected)
        if scaler is None or scaler.get_scale() <= 1 or _has_finite_gradients(trainer):
            return collected
        scaler.update(scaler.get_scale() / 2)
        trainer.model_wrapped.zero_grad()


def _has_finite_gradients(trainer: Any) -> bool:
    """Whether all gradients of all processes are finite."""
    gradients = (weight.grad for weight in trainer.model_wrapped.parameters() if weight.grad is not None)
    lost = torch.tensor(sum(not each.isfinite().all() for each in gradients), device=trainer.args.device)
    return not trainer.accelerator.reduce(lost, "sum").item()


def can_move_weights(trainer: Any) -> bool:
    """Whether the weights and gradients are those of the model, or shares of them: not with DeepSpeed and FSDP1."""
    return not (trainer.is_deepspeed_enabled or (trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2))


@contextmanager
def _put_back(trainer: Any) -> Iterator[list[Any]]:
    """The weights that are trained; at the end, they, the random numbers and the sampler are what they were."""
    if trainer.is_fsdp_enabled:
        _spread_again(trainer.model_wrapped)
    trained = [weight for weight in trainer.model_wrapped.parameters() if weight.requires_grad]
    copies = [weight.detach().clone() for weight in trained]
    sampler = trainer.pair_sampler  # of the run's own loader, which each epoch tells its number
    try:
        with torch.random.fork_rng():
            yield trained
    finally:
        with torch.no_grad():
            for weight, copy in zip(trained, copies, strict=True):
                weight.copy_(copy)
        trainer.model_wrapped.zero_grad()
        trainer.pair_sampler = sampler


def _spread_again(model: Any) -> None:
    """Leaves each process its share of all weights.

    After a forward pass without a backward pass, FSDP2 keeps the last layer whole: its parameters are then others than
    those that are trained, and their memory is freed in the next backward pass.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
