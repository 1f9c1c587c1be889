"""Training on answers that stops and saves at a deadline, and goes on from there when it is called again."""

import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from egup_trainer.modeling.forward import AnswerReader

SAVING = {"save_strategy": "steps", "save_steps": 50, "save_total_limit": 1}
"""`TrainingArguments` options under which little is lost where a run is broken off."""


class AnswerTrainer(Trainer):
    """A `Trainer` that takes the model's own loss, the mean over answer tokens, from their positions alone.

    With 262,144 words to choose from, logits are most of a small model's work, and two thirds of the positions are
    prompts and padding. For one micro-batch a step.
    """

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.reader = AnswerReader(model)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = self.reader(model, **inputs, with_features=False)
        loss = outputs.sum_nll.sum() / outputs.num_tokens.sum()
        return (loss, outputs) if return_outputs else loss


class StopAtDeadline(TrainerCallback):
    """Saves a checkpoint and stops after the first step that ends past the deadline.

    Args:
        deadline: a time of `time.monotonic`, seconds.
    """

    def __init__(self, deadline: float):
        self.deadline = deadline

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.monotonic() >= self.deadline:
            control.should_save = control.should_training_stop = True


def train_until(trainer: Any, deadline: float) -> bool:
    """Trains from the last checkpoint on, or from the start if there is none; True once the last step is done.

    At least one step is taken, so that calls with too short a time still come to an end.

    Args:
        trainer: a `transformers.Trainer` made as for the first call, with the options `SAVING`.
        deadline: a time of `time.monotonic`, seconds.
    """
    trainer.add_callback(StopAtDeadline(deadline))
    checkpoint = last_checkpoint(Path(trainer.args.output_dir))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer.state.global_step >= trainer.state.max_steps


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with most steps among those that are whole: the trainer's state is what it writes last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
