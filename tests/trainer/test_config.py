"""Configurations: what is refused and how it is said, flags, YAML, defaults."""

import pytest
from trl import ModelConfig, TrlParser

from egup_trainer import EGUPConfig, UnlearnConfig
from egup_trainer.errors import ConfigError
from egup_trainer.guidance.proxy_constraint import ProxyForm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "npoo"},
            "got objective='npoo'; expected one of grad_ascent, grad_diff, npo, simnpo, wga, satimp, "
            "ceu, undial, dpo, altpo, rmu, pdu, task_vector, finetune; did you mean npo?",
        ),
        (
            {"retain_loss": "mse"},
            "got retain_loss='mse'; expected one of nll, kl, features, none; choose one with --retain_loss",
        ),
        ({"dpo_beta": 0}, "got dpo_beta=0; expected a number above 0; set --dpo_beta"),
        ({"rmu_steering": 0}, "got rmu_steering=0; expected a number above 0; set --rmu_steering"),
        ({"pdu_retain_eps": -1}, "got pdu_retain_eps=-1; expected a number of at least 0; set --pdu_retain_eps"),
        ({"pdu_dual_rate": 0}, "got pdu_dual_rate=0; expected a number above 0; set --pdu_dual_rate"),
        ({"task_vector_scale": 0}, "got task_vector_scale=0; expected a number above 0; set --task_vector_scale"),
        ({"npo_beta": 0}, "got npo_beta=0; expected a number above 0, or auto; set --npo_beta"),
        ({"npo_beta": float("nan")}, "got npo_beta=nan; expected a number above 0, or auto; set --npo_beta"),
        ({"simnpo_beta": float("inf")}, "got simnpo_beta=inf; expected a number above 0; set --simnpo_beta"),
        ({"forget_weight": -1}, "got forget_weight=-1; expected a number of at least 0; set --forget_weight"),
        ({"max_length": 7}, "got max_length=7; expected a whole number of at least 8; set --max_length"),
        (
            {"inter_clip_min": 1.5},
            "got inter_clip_min=1.5; expected a number of at least 0 and at most 1; set --inter_clip_min",
        ),
        ({"inter_clip_max": 0.5}, "got inter_clip_max=0.5; expected a number of at least 1; set --inter_clip_max"),
        (
            {"inter_neighbors": 2.5},
            "got inter_neighbors=2.5; expected a whole number of at least 1; set --inter_neighbors",
        ),
        ({"npo_beta": "x"}, "got npo_beta=x; expected a number above 0, or auto; set --npo_beta"),
        (
            {"label_smoothing_factor": 0.1},
            "got label_smoothing_factor=0.1; expected 0.0, the only value that this trainer can honour; "
            "leave out --label_smoothing_factor",
        ),
        (
            {"train_sampling_strategy": "batch_rebalance"},
            "got train_sampling_strategy=batch_rebalance; expected random or group_by_length: forget rows are visited "
            "in a drawn order; set --train_sampling_strategy group_by_length, or leave it out",
        ),
        (
            {"neftune_noise_alpha": 5.0},
            "got neftune_noise_alpha=5.0; expected None, the only value that this trainer can honour; "
            "leave out --neftune_noise_alpha",
        ),
        (
            {"clreg_weight": 0.1, "per_device_train_batch_size": 1},
            "got clreg_positives=forget with one forget row a step; expected two or more: a sample is drawn to the "
            "step's other forget samples; raise the batch size or --gradient_accumulation_steps, or use "
            "--clreg_positives views",
        ),
        (
            {"push_to_hub": True, "output_dir": "o", "scan_cache_dir": "o/scans"},
            "got scan_cache_dir=o/scans in a folder that is pushed to the hub; expected a folder elsewhere: a scan "
            "holds features of the forget set, which must not be published; set --scan_cache_dir",
        ),
        ({"bank_size": 0}, "got bank_size=0; expected a whole number of at least 1; set --bank_size"),
        ({"cache_dim": 1}, "got cache_dim=1; expected a whole number of at least 2; set --cache_dim"),
        ({"proxy_temperature": 0}, "got proxy_temperature=0; expected a number above 0; set --proxy_temperature"),
        ({"proxy_form": "wall"}, "got proxy_form='wall'; expected one of effort, penalty; set --proxy_form"),
        ({"proxy_match": ""}, "got proxy_match=''; expected one of mean, nearest; set --proxy_match"),
        (
            {"clreg_positives": "x"},
            "got clreg_positives='x'; expected one of forget, views, paraphrase; set --clreg_positives",
        ),
        (
            {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "got activation checkpointing with use_reentrant=true; expected use_reentrant=false: the reentrant form "
            "loses the gradient of features and of adapters; leave use_reentrant out",
        ),
        (
            {"push_to_hub": True, "hub_strategy": "checkpoint"},
            "got hub_strategy=checkpoint; expected end or every_save: checkpoints hold features of the forget set, "
            "which must not be published; set --hub_strategy every_save",
        ),
    ],
)
def test_bad_values_are_refused_in_one_line(config, options, message):
    with pytest.raises(ConfigError) as error:
        config(**options)
    assert str(error.value) == message


def test_several_gpus_in_one_process_are_refused(config, monkeypatch):
    monkeypatch.setattr(UnlearnConfig, "n_gpu", property(lambda self: 2))
    with pytest.raises(ConfigError, match="got 2 GPUs in one process; expected one process a GPU; start with"):
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
