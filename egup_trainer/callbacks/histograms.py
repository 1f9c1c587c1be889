"""Weights, drift and the like of single forget samples, as histograms in the trackers of `report_to`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback


def _to_tensorboard(tracker: Any, values: dict[str, np.ndarray], step: int) -> None:
    for name, samples in values.items():
        tracker.tb_writer.add_histogram(name, samples, step)


def _to_wandb(tracker: Any, values: dict[str, np.ndarray], step: int) -> None:
    drawn = {name: tracker._wandb.Histogram(samples) for name, samples in values.items()}
    tracker._wandb.log({**drawn, "train/global_step": step})


def _to_trackio(tracker: Any, values: dict[str, np.ndarray], step: int) -> None:
    drawn = {name: tracker._trackio.Histogram(samples) for name, samples in values.items()}
    tracker._trackio.log({**drawn, "train/global_step": step})


_WRITERS: dict[type, Callable[[Any, dict[str, np.ndarray], int], None]] = {
    TensorBoardCallback: _to_tensorboard,
    WandbCallback: _to_wandb,
    TrackioCallback: _to_trackio,
}


class Histograms(TrainerCallback):
    """Sends what was seen of forget samples since the last log to TensorBoard, Weights & Biases and Trackio.

    Under `train/samples/weight`, `drift`, `entanglement`, `boundary_gap` and `expected_gap`: one value per forget
    sample and step.

    Args:
        trainer: an `UnlearnTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sends the single values of the means that the trainer has just logged, once."""
        seen, self.trainer.step_log.flushed = self.trainer.step_log.flushed, {}
        values = {f"train/samples/{name}": samples.cpu().numpy() for name, samples in seen.items() if len(samples)}
        if not values or not state.is_world_process_zero:
            return
        for tracker in self.trainer.callback_handler.callbacks:
            write = _WRITERS.get(type(tracker))
            if write is not None:
                write(tracker, values, state.global_step)
