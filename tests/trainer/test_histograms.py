"""Trackers of `report_to` get histograms of samples: TensorBoard's read back, the others where they are installed."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from egup_trainer.callbacks.histograms import Histograms

NAMES = {"weight", "drift", "entanglement", "boundary_gap"}


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@needs("tensorboard")
def test_tensorboard_holds_each_logged_step(make_trainer, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    trainer = make_trainer(report_to="tensorboard", max_steps=4, logging_steps=2)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "runs"), size_guidance={"histograms": 0})
    events.Reload()
    tags = {f"train/samples/{name}" for name in NAMES}
    assert tags <= set(events.Tags()["histograms"])
    weights = events.Histograms("train/samples/weight")
    assert [event.step for event in weights] == [2, 4]
    logged = [row for row in trainer.state.log_history if "weight_mean" in row]
    for event, row in zip(weights, logged, strict=True):
        value = event.histogram_value
        assert value.sum / value.num == pytest.approx(row["weight_mean"], rel=1e-5)
        assert (value.min, value.max) == pytest.approx((row["weight_min"], row["weight_max"]), rel=1e-5)
    assert weights[0].histogram_value.num == 2 * trainer.args.per_device_train_batch_size


@needs("wandb")
def test_wandb_takes_histograms_offline(make_trainer, tmp_path, monkeypatch):
    import wandb

    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    sent = []
    trainer = make_trainer(report_to="wandb", max_steps=2, logging_steps=1)
    log = wandb.sdk.wandb_run.Run.log
    monkeypatch.setattr(
        wandb.sdk.wandb_run.Run, "log", lambda run, data, *more, **named: (sent.append(data), log(run, data, *more))[1]
    )
    trainer.train()
    wandb.finish()
    drawn = [data for data in sent if "train/samples/weight" in data]
    assert [data["train/global_step"] for data in drawn] == [1, 2]
    assert all(isinstance(data[f"train/samples/{name}"], wandb.Histogram) for data in drawn for name in NAMES)


class Histogram:
    """As Trackio and Weights & Biases have it: made from a sequence."""

    def __init__(self, sequence):
        self.values = list(sequence)


@pytest.mark.parametrize(("kind", "module"), [(WandbCallback, "_wandb"), (TrackioCallback, "_trackio")])
def test_values_are_those_of_the_samples_and_are_sent_once(make_trainer, kind, module):
    sent = []
    tracker = kind.__new__(kind)
    setattr(tracker, module, SimpleNamespace(Histogram=Histogram, log=sent.append))
    handler = SimpleNamespace(callbacks=[tracker])
    step_log = SimpleNamespace(flushed={"weight": torch.tensor([0.5, -1.0]), "drift": torch.tensor([])})
    callback = Histograms(SimpleNamespace(step_log=step_log, callback_handler=handler))
    first, other = (SimpleNamespace(global_step=7, is_world_process_zero=is_first) for is_first in (True, False))
    callback.on_log(None, first, None)
    callback.on_log(None, first, None)
    (data,) = sent
    assert data.keys() == {"train/samples/weight", "train/global_step"}
    assert (data["train/samples/weight"].values, data["train/global_step"]) == ([0.5, -1.0], 7)
    step_log.flushed = {"weight": torch.tensor([0.5])}
    callback.on_log(None, other, None)
    assert len(sent) == 1


def test_other_callbacks_are_let_be():
    step_log = SimpleNamespace(flushed={"weight": torch.tensor([0.5])})
    written = []
    tracker = TensorBoardCallback.__new__(TensorBoardCallback)
    tracker.tb_writer = SimpleNamespace(add_histogram=lambda *call: written.append(call))
    handler = SimpleNamespace(callbacks=[object(), tracker])
    state = SimpleNamespace(global_step=3, is_world_process_zero=True)
    Histograms(SimpleNamespace(step_log=step_log, callback_handler=handler)).on_log(None, state, None)
    ((name, values, step),) = written
    assert (name, step) == ("train/samples/weight", 3)
    np.testing.assert_array_equal(values, [0.5])
