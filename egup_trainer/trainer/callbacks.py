"""What happens around steps, as callbacks."""

import shutil
from typing import Any

from transformers import ProgressCallback, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.probability import probabilities
from egup_trainer.trainer.finite import refuse_infinite_gradient
from egup_trainer.trainer.histograms import Histograms
from egup_trainer.trainer.movement import WatchMovement


class StepHooks(TrainerCallback):
    """Ties a trainer's memory to the training loop: scan before the first step, commit after each.

    Args:
        trainer: an `UnlearnTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_training()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Neither a skipped-ahead loader nor one of several processes passes the epoch on to a sampler.
        self.trainer.pair_sampler.set_epoch(int(state.epoch or 0))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.accelerator.scaler is None:  # that of fp16 looks itself
            refuse_infinite_gradient(self.trainer.model, self.trainer.step_counts.samples)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.scan_cache_dir is None and state.is_world_process_zero:
            # Features of forget rows have no place beside the model; only a run that was cut off needs them there.
            shutil.rmtree(self.trainer.scan_folder, ignore_errors=True)


OF_EACH_RUN = (StepHooks, WatchMovement, Histograms)
"""What every trainer of this package has."""


class BarOnly(ProgressCallback):
    """The progress bar without the lines of logged values: for runs whose numbers are shown in the end."""

    @classmethod
    def replace_in(cls, trainer: Any) -> None:
        """Takes the place of the trainer's progress callback, if that has a bar."""
        if not trainer.args.disable_tqdm:
            trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)  # in a notebook another one than in a terminal
            trainer.add_callback(cls)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        pass


class ProbabilityCallback(TrainerCallback):
    """Mean probability of answers, mean over rows of exp(-l_i), before the first and after the last step.

    Args:
        trainer: the trainer whose model is scored.
        datasets: the rows by name; of many rows a sample, drawn with the run's seed.

    Attributes:
        before, after: probability by name.
    """

    def __init__(self, trainer: Any, datasets: dict[str, RowDataset]):
        self.trainer, self.datasets = trainer, datasets
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = self._score("before")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after = self._score("after")

    def _score(self, when: str) -> dict[str, float]:
        args = self.trainer.args
        description = None if args.disable_tqdm else f"Scoring rows {when} unlearning"
        return probabilities(
            lambda rows, ids: self.trainer.score(rows, ids, description=description), self.datasets, seed=args.seed
        )
