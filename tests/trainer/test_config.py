"""Configurations: what is refused and how it is said, flags, YAML, defaults."""

import pytest
from trl import ModelConfig, TrlParser

from egup_trainer import EGUPConfig, UnlearnConfig
from egup_trainer.components.proxy_constraint import ProxyForm
from egup_trainer.errors import ConfigError
from egup_trainer.retraining import RetrainConfig


@pytest.mark.parametrize(  # numbers, and what a command can be given: tests/bad_input
    ("options", "message"),
    [
        ({"proxy_form": "wall"}, "proxy_form='wall'"),
        ({"proxy_match": ""}, "proxy_match=''"),
        ({"clreg_positives": "x"}, "clreg_positives='x'"),
        ({"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy=batch_rebalance"),
        (
            {"push_to_hub": True, "output_dir": "o", "scan_cache_dir": "o/scans"},
            "scan_cache_dir=o/scans in a folder that is pushed to the hub",
        ),
        (
            {"push_to_hub": True, "output_dir": "o", "scan_cache_dir": "o"},
            "scan_cache_dir=o in a folder that is pushed to the hub",
        ),
        ({"push_to_hub": True, "hub_strategy": "checkpoint"}, "hub_strategy=checkpoint"),
        (
            {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "activation checkpointing with use_reentrant=true",
        ),
    ],
)
def test_bad_values_are_refused_in_one_line(config, options, message):
    with pytest.raises(ConfigError) as error:
        config(**options)
    assert error.value.got == message


def test_several_gpus_in_one_process_are_refused(config, monkeypatch):
    monkeypatch.setattr(UnlearnConfig, "n_gpu", property(lambda self: 2))
    with pytest.raises(ConfigError, match=r"Got 2 GPUs in one process, but expected one process per GPU. Start with."):
        config()


@pytest.mark.parametrize(("objective", "retain"), [("grad_ascent", "none"), ("grad_diff", "nll"), ("npo", "nll")])
def test_the_retain_loss_is_the_objectives_own_unless_named(config, objective, retain):
    assert config(objective=objective).retain_loss == retain
    assert config(objective=objective, retain_loss="kl").retain_loss == "kl"


def test_defaults_are_safe(tmp_path):
    options = EGUPConfig(output_dir=str(tmp_path), use_cpu=True)
    assert (options.proxy_constraint, options.clreg_weight) == (True, 0)
    # What each part adds: docs/results.md.
    assert (options.inter_entanglement, options.intra_entanglement) == (False, False)
    assert (options.objective, options.remove_unused_columns, options.disable_dropout) == ("proxy_kl", False, True)
    assert (options.uses_auto, options.learning_rate, options.retain_weight) == (True, 1e-5, 3.0)
    assert options.bf16 is False
    assert options.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_flags_and_yaml_fill_the_configuration_and_flags_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("objective: simnpo\nproxy_form: penalty\nclreg_weight: 0.3\nintra_entanglement: true\n")
    words = ["--config", str(file), "--output_dir", str(tmp_path / "o"), "--use_cpu", "--clreg_weight", "0.1"]
    words += ["--no_proxy_constraint", "--use_peft", "--lora_r", "4", "--model_init_kwargs", '{"dtype": "bfloat16"}']
    options, model = TrlParser([EGUPConfig, ModelConfig]).parse_args_and_config(words)
    assert (options.objective, options.proxy_form, options.clreg_weight) == ("simnpo", ProxyForm.PENALTY, 0.1)
    assert (options.inter_entanglement, options.proxy_constraint, options.intra_entanglement) == (False, False, True)
    assert options.model_init_kwargs == {"dtype": "bfloat16"}
    assert (model.use_peft, model.lora_r) == (True, 4)


def test_a_configuration_survives_its_json(config):
    saved = config(clreg_weight=0.2, proxy_form="penalty").to_dict()
    assert (saved["clreg_weight"], saved["proxy_form"]) == (0.2, "penalty")


def test_every_field_of_ours_has_a_help_text_without_a_bare_percent_sign():
    from dataclasses import fields

    from transformers import TrainingArguments

    ours = {field.name: field for field in fields(EGUPConfig)}
    for name in ours.keys() - {field.name for field in fields(TrainingArguments)}:
        text = ours[name].metadata["help"]
        assert text.endswith(".")
        assert "%" not in text


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            EGUPConfig,
            {"clreg_weigth": 0.1},
            "Got the unknown option clreg_weigth, but expected an option of EGUPConfig. Did you mean clreg_weight?",
        ),
        (
            UnlearnConfig,
            {"learning_rat": 1e-4},
            "Got the unknown option learning_rat, but expected an option of UnlearnConfig. Did you mean learning_rate?",
        ),
        (
            UnlearnConfig,
            {"clreg_weight": 0.1},
            "Got the unknown option clreg_weight, but expected an option of UnlearnConfig. Leave it out.",
        ),
        (
            RetrainConfig,
            {"num_train_epoch": 3},
            "Got the unknown option num_train_epoch, but expected an option of RetrainConfig. "
            "Did you mean num_train_epochs?",
        ),
    ],
)
def test_an_option_that_does_not_exist_is_named_with_what_may_be_meant(kind, options, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        kind(output_dir=str(tmp_path), use_cpu=True, **options)
    assert str(error.value) == message


def test_a_subclass_may_take_options_of_its_own(tmp_path):
    class Mine(UnlearnConfig):
        def __init__(self, *, mine: int = 0, **options):
            super().__init__(**options)
            self.mine = mine

    assert Mine(output_dir=str(tmp_path), use_cpu=True, mine=3).mine == 3
