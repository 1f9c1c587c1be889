"""Connects a trainer to the training loop of `transformers.Trainer`."""

import shutil
from typing import Any

from transformers import TrainerCallback

from egup_trainer.callbacks.finite import refuse_infinite_gradient


class StepHooks(TrainerCallback):
    """Lets a trainer scan before the first step and commit after each step."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_training()
        self._epoch = int(state.epoch or 0)  # of a resumed run, the one that it was interrupted in

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The loader of a resumed run, or of one of several processes, does not tell the sampler which epoch it is. The
        # state does not, either, after an epoch that a callback has cut short.
        self.trainer.pair_sampler.set_epoch(self._epoch)
        self._epoch += 1

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.accelerator.scaler is None:  # the scaler of fp16 checks gradients itself
            refuse_infinite_gradient(self.trainer.model, self.trainer.collected.counts.samples)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.scan_cache_dir is None and state.is_world_process_zero:
            # Features of forget rows have no place beside the model; only an interrupted run needs them there.
            shutil.rmtree(self.trainer.scan_folder, ignore_errors=True)
