"""The demo's models in a folder: trained once, made anew when they are not those asked for."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from egup_trainer.demo import models
from egup_trainer.demo.experiment import demo_experiment
from egup_trainer.demo.people import invent_people
from egup_trainer.demo.twins import ModelSize, Schedule


@pytest.fixture
def trainings(monkeypatch):
    """How many models were trained; the demo is a tiny one, of 1 person to forget and 2 to keep."""
    counted = []

    def tiny(seed):
        people = invent_people(1, 2, 1, 1, seed=seed)
        return replace(demo_experiment(seed), **vars(people), size=ModelSize(32, 1, 4, 300), learning=Schedule(1, 1e-3))

    def train_all(*args):
        for trained in real(*args):
            counted.append(trained.name)
            yield trained

    real = models.train_all
    monkeypatch.setattr(models, "demo_experiment", tiny)
    monkeypatch.setattr(models, "train_all", train_all)
    return counted


def weights(path):
    return AutoModelForCausalLM.from_pretrained(path).lm_head.weight


def test_both_are_trained_once_and_saved_with_their_tokenizer(trainings, tmp_path):
    demo = models.demo_models(tmp_path)
    assert trainings == ["before", "retrained"]
    assert (demo.before, demo.retrained) == (tmp_path / "before", tmp_path / "retrained")
    assert demo.people == invent_people(1, 2, 1, 1, seed=0)
    assert not torch.equal(weights(demo.before), weights(demo.retrained))
    question = demo.people.forget[0]["question"]
    tokenizer = AutoTokenizer.from_pretrained(demo.retrained)
    assert tokenizer.decode(tokenizer(question)["input_ids"]) == question
    assert models.demo_models(tmp_path) == demo
    assert trainings == ["before", "retrained"]


def test_another_seed_and_half_a_folder_are_made_anew(trainings, tmp_path):
    first = weights(models.demo_models(tmp_path).before)
    second = weights(models.demo_models(tmp_path, seed=1).before)
    assert trainings == ["before", "retrained"] * 2
    assert not torch.equal(first, second)
    (tmp_path / "settings.json").unlink()  # as a run that was cut short leaves it
    third = weights(models.demo_models(tmp_path, seed=1).before)
    assert trainings == ["before", "retrained"] * 3
    assert torch.equal(second, third)
