"""Every benchmark can be imported, and the options of the demo's variants are options that there are."""

import importlib
import pkgutil

import pytest

import benchmarks
from benchmarks import design_choices, tofu_small
from egup_trainer import EGUPConfig
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.losses.registry import OBJECTIVES, make_forget_loss, register_forget_loss

MODULES = [module.name for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name):
    importlib.import_module(name)


@pytest.mark.parametrize("variants", [design_choices.VARIANTS, tofu_small.METHODS])
def test_every_variant_has_options_that_there_are(variants, monkeypatch, tmp_path):
    monkeypatch.setattr("egup_trainer.losses.registry.OBJECTIVES", dict(OBJECTIVES))
    register_forget_loss("npo_clamped", design_choices.ClampedNPO)
    for options in variants.values():
        config = EGUPConfig(str(tmp_path), learning_rate=1e-4, use_cpu=True, report_to="none", **options)
        assert isinstance(make_forget_loss(config), ForgetLoss)
