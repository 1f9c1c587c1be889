"""The world of the study in small: an author of each kind, and a model that learns next to nothing."""

from benchmarks.study import runs, world
from egup_trainer.demo.twins import ModelSize, Schedule

_WORLD = {
    "BASE_AUTHORS": range(20, 22),
    "NUM_FORGET": 1,
    "NUM_RETAIN": 1,
    "NUM_PROXY": 1,
    "NUM_HOLDOUT": 1,
    "NUM_JUDGED": 1,
    "NUM_REQUESTS": 2,
    "SIZE": ModelSize(hidden=32, layers=2, heads=2, vocabulary=400),
    "LANGUAGE": Schedule(epochs=1, learning_rate=2e-3, batch_size=16),
    "LEARNING": Schedule(epochs=2, learning_rate=2e-3, batch_size=8),
}


def make_study_small(monkeypatch):
    for name, value in _WORLD.items():
        monkeypatch.setattr(world, name, value)
    monkeypatch.setattr(runs, "UNLEARNING", {**runs.UNLEARNING, "num_train_epochs": 1, "warmup_steps": 1})
    monkeypatch.setattr(runs, "RELEARNING", {**runs.RELEARNING, "steps": 2, "every": 1})
    monkeypatch.setattr(runs, "MAX_NEW_TOKENS", 6)
