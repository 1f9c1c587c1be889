"""Options that cannot work are refused in one line before a model is loaded, with a guess at what was meant."""

import re
from dataclasses import fields
from typing import get_type_hints

import pytest
from fixtures_cli import assert_refused, whole_words
from transformers import TrainingArguments

from egup_trainer import EGUPConfig

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

ABOVE_0 = ["nan", "inf", "-1", "0"]
FROM_0 = ["nan", "inf", "-inf", "-0.5"]
COUNT = ["nan", "inf", "1.5", "0", "-1"]
COUNT_FROM_0 = ["nan", "1.5", "-1"]
SHARE = ["nan", "inf", "-0.1", "1.1"]
LAYER = ["nan", "inf", "1.5", "-0.5"]
# What no number of the kind may be: every number of the configurations has a line here.
NUMBERS = {
    **dict.fromkeys(["forget_weight", "retain_weight", "simnpo_delta", "wga_beta"], FROM_0),
    **dict.fromkeys(["satimp_beta1", "satimp_beta2", "pdu_retain_eps", "pdu_dual_start"], FROM_0),
    **dict.fromkeys(["pdu_warmup_epochs", "stop_retain_rise", "proxy_lambda", "forget_sharpness"], FROM_0),
    **dict.fromkeys(["clreg_weight", "clreg_retain_anchor", "learning_rate", "proxy_kl_effort"], FROM_0),
    **dict.fromkeys(["simnpo_beta", "undial_strength", "dpo_beta", "rmu_steering"], ABOVE_0),
    **dict.fromkeys(["npo_beta", "pdu_dual_rate", "task_vector_scale", "num_train_epochs"], ABOVE_0),
    **dict.fromkeys(["inter_temperature", "intra_temperature", "proxy_temperature", "proxy_kl_temperature"], ABOVE_0),
    **dict.fromkeys(["clreg_temperature", "clreg_noise_alpha", "logging_steps"], ABOVE_0),
    **dict.fromkeys(["inter_neighbors", "bank_size", "proxy_neighbors"], COUNT),
    **dict.fromkeys(["kl_top_k", "self_samples"], COUNT_FROM_0),
    "max_length": [*COUNT, "7"],
    "cache_dim": [*COUNT, "1"],
    "expected_top_k": [*COUNT, "1"],
    **dict.fromkeys(["inter_clip_min", "example_share"], SHARE),
    "inter_clip_max": ["nan", "inf", "-1", "0.9"],
    **dict.fromkeys(["rmu_layer", "feature_layer"], LAYER),
}
OF_TRANSFORMERS = {
    **dict.fromkeys(["weight_decay", "warmup_steps", "max_grad_norm", "eval_delay"], FROM_0),
    **dict.fromkeys(["adam_epsilon", "save_steps", "eval_steps"], ABOVE_0),
    **dict.fromkeys(["adam_beta1", "adam_beta2"], SHARE),
    **dict.fromkeys(
        ["per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"], COUNT
    ),
    **dict.fromkeys(["eval_accumulation_steps", "torch_empty_cache_steps"], COUNT),
    **dict.fromkeys(["seed", "data_seed", "dataloader_num_workers"], COUNT_FROM_0),
    "dataloader_prefetch_factor": COUNT,
    "max_steps": ["nan", "1.5", "-2"],
    "label_smoothing_factor": ["nan", "-1", "0.5"],
    "neftune_noise_alpha": ["nan", "5"],
}
NUMBER = re.compile(r"\b(int|float)\b")
WHOLE = {name for name, kind in get_type_hints(EGUPConfig).items() if re.search(r"\bint\b", str(kind))}


def test_every_number_of_ours_has_its_cases():
    hints, inherited = get_type_hints(EGUPConfig), {field.name: field for field in fields(TrainingArguments)}
    ours = {
        field.name
        for field in fields(EGUPConfig)
        if field is not inherited.get(field.name) and NUMBER.search(str(hints[field.name]))
    }
    assert ours == set(NUMBERS)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in (NUMBERS | OF_TRANSFORMERS).items() for value in values]
)
def test_a_number_out_of_range_is_refused(no_weights, tmp_path, capsys, name, value):
    words = whole_words(no_weights, tmp_path, f"--{name}={value}")
    is_no_int = name in WHOLE and not value.lstrip("-").isdecimal()
    shown = value if name in WHOLE or name == "npo_beta" else float(value)
    assert_refused(words, tmp_path, capsys, name, repr(value) if is_no_int else f"{name}={shown}")
