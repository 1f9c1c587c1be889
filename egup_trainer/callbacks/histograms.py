"""Weights, drift and the like of single forget samples, as histograms in the trackers of `report_to`."""

from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

_MODULES = {WandbCallback: "_wandb", TrackioCallback: "_trackio"}
"""Where the callback of a tracker keeps the tracker's module."""


class Histograms(TrainerCallback):
    """Sends what was seen of forget samples since the last log to TensorBoard, Weights & Biases and Trackio.

    Under `train/samples/weight`, `drift`, `entanglement`, `boundary_gap` and `expected_gap`: one value per forget
    sample and step.
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
            if type(tracker) is TensorBoardCallback:
                for name, samples in values.items():
                    tracker.tb_writer.add_histogram(name, samples, state.global_step)
            elif type(tracker) in _MODULES:
                module = getattr(tracker, _MODULES[type(tracker)])
                drawn = {name: module.Histogram(samples) for name, samples in values.items()}
                module.log({**drawn, "train/global_step": state.global_step})
