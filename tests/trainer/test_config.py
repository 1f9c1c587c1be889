"""Configurations: what is refused and how it is said, flags, YAML, defaults."""

import pytest
from trl import ModelConfig, TrlParser

from egup_trainer import EGUPConfig, UnlearnConfig
from egup_trainer.components.proxy_constraint import ProxyForm
from egup_trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "npoo"},
            "Got objective='npoo', but expected one of grad_ascent, grad_diff, npo, simnpo, wga, satimp, "
            "ceu, undial, dpo, altpo, rmu, pdu, task_vector, finetune. Did you mean npo?",
        ),
        (
            {"retain_loss": "mse"},
            "Got retain_loss='mse', but expected one of nll, kl, features, none. Choose one with --retain_loss.",
        ),
        ({"dpo_beta": 0}, "Got dpo_beta=0, but expected a number above 0. Set --dpo_beta."),
        ({"rmu_steering": 0}, "Got rmu_steering=0, but expected a number above 0. Set --rmu_steering."),
        ({"pdu_retain_eps": -1}, "Got pdu_retain_eps=-1, but expected a number of at least 0. Set --pdu_retain_eps."),
        ({"pdu_dual_rate": 0}, "Got pdu_dual_rate=0, but expected a number above 0. Set --pdu_dual_rate."),
        ({"task_vector_scale": 0}, "Got task_vector_scale=0, but expected a number above 0. Set --task_vector_scale."),
        ({"npo_beta": 0}, "Got npo_beta=0, but expected a number above 0, or auto. Set --npo_beta."),
        ({"npo_beta": float("nan")}, "Got npo_beta=nan, but expected a number above 0, or auto. Set --npo_beta."),
        ({"simnpo_beta": float("inf")}, "Got simnpo_beta=inf, but expected a number above 0. Set --simnpo_beta."),
        ({"forget_weight": -1}, "Got forget_weight=-1, but expected a number of at least 0. Set --forget_weight."),
        ({"max_length": 7}, "Got max_length=7, but expected a whole number of at least 8. Set --max_length."),
        (
            {"inter_clip_min": 1.5},
            "Got inter_clip_min=1.5, but expected a number of at least 0 and at most 1. Set --inter_clip_min.",
        ),
        ({"inter_clip_max": 0.5}, "Got inter_clip_max=0.5, but expected a number of at least 1. Set --inter_clip_max."),
        (
            {"inter_neighbors": 2.5},
            "Got inter_neighbors=2.5, but expected a whole number of at least 1. Set --inter_neighbors.",
        ),
        ({"npo_beta": "x"}, "Got npo_beta=x, but expected a number above 0, or auto. Set --npo_beta."),
        (
            {"label_smoothing_factor": 0.1},
            "Got label_smoothing_factor=0.1, but expected 0.0, the only value that this trainer can honour. "
            "Leave out --label_smoothing_factor.",
        ),
        (
            {"train_sampling_strategy": "batch_rebalance"},
            "Got train_sampling_strategy=batch_rebalance, but expected random or group_by_length: forget rows are "
            "visited "
            "in a drawn order. Set --train_sampling_strategy group_by_length, or leave it out.",
        ),
        (
            {"neftune_noise_alpha": 5.0},
            "Got neftune_noise_alpha=5.0, but expected None, the only value that this trainer can honour. "
            "Leave out --neftune_noise_alpha.",
        ),
        (
            {"clreg_weight": 0.1, "per_device_train_batch_size": 1},
            "Got clreg_positives=forget with one forget row per step, but expected two or more: a sample is drawn to "
            "the step's other forget samples. Raise the batch size or --gradient_accumulation_steps, or use "
            "--clreg_positives views.",
        ),
        (
            {"push_to_hub": True, "output_dir": "o", "scan_cache_dir": "o/scans"},
            "Got scan_cache_dir=o/scans in a folder that is pushed to the hub, but expected a folder elsewhere: a scan "
            "holds features of the forget set, which must not be published. Set --scan_cache_dir.",
        ),
        ({"bank_size": 0}, "Got bank_size=0, but expected a whole number of at least 1. Set --bank_size."),
        ({"cache_dim": 1}, "Got cache_dim=1, but expected a whole number of at least 2. Set --cache_dim."),
        ({"proxy_temperature": 0}, "Got proxy_temperature=0, but expected a number above 0. Set --proxy_temperature."),
        ({"proxy_form": "wall"}, "Got proxy_form='wall', but expected one of effort, penalty. Set --proxy_form."),
        ({"proxy_match": ""}, "Got proxy_match='', but expected one of mean, nearest. Set --proxy_match."),
        (
            {"clreg_positives": "x"},
            "Got clreg_positives='x', but expected one of forget, views, paraphrase. Set --clreg_positives.",
        ),
        (
            {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "Got activation checkpointing with use_reentrant=true, but expected use_reentrant=false: the reentrant "
            "form "
            "loses the gradient of features and of adapters. Leave use_reentrant out.",
        ),
        (
            {"push_to_hub": True, "hub_strategy": "checkpoint"},
            "Got hub_strategy=checkpoint, but expected end or every_save: checkpoints hold features of the forget set, "
            "which must not be published. Set --hub_strategy every_save.",
        ),
    ],
)
def test_bad_values_are_refused_in_one_line(config, options, message):
    with pytest.raises(ConfigError) as error:
        config(**options)
    assert str(error.value) == message


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
    assert (options.objective, options.remove_unused_columns, options.disable_dropout) == ("npo", False, True)
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
