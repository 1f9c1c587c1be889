"""What an objective cannot carry or use is refused in one line that names the flags."""

import pytest

from egup_trainer import UnlearnConfig
from egup_trainer.errors import ConfigError

UNGUIDED = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}


@pytest.mark.parametrize(
    ("options", "named", "flags"),
    [
        (
            {"objective": "task_vector"},
            "task_vector with inter_entanglement, intra_entanglement, proxy_constraint",
            "leave out --inter_entanglement, leave out --intra_entanglement, add --no_proxy_constraint",
        ),
        ({"objective": "task_vector", **UNGUIDED, "clreg_weight": 0.1}, "clreg_weight", "leave out --clreg_weight"),
        (
            {"objective": "task_vector", **UNGUIDED, "proxy_constraint": True, "proxy_form": "penalty"},
            "proxy_constraint",
            "add --no_proxy_constraint",
        ),
        ({"objective": "task_vector", **UNGUIDED, "stop_at_boundary": True}, "stop_at_boundary", "--stop_at_boundary"),
        ({"objective": "task_vector", **UNGUIDED, "retain_loss": "nll"}, "retain_loss=nll", "--retain_loss"),
        ({"objective": "task_vector", **UNGUIDED, "eval_strategy": "epoch"}, "eval_strategy=epoch", "egup evaluate"),
        (
            {"objective": "task_vector", **UNGUIDED, "push_to_hub": True, "hub_strategy": "every_save"},
            "hub_strategy=every_save",
            "--hub_strategy end",
        ),
        (
            {"objective": "finetune", "proxy_constraint": False},
            "finetune with inter_entanglement, intra_entanglement",
            "leave out --inter_entanglement, leave out --intra_entanglement",
        ),
        ({"objective": "pdu", "retain_loss": "none"}, "pdu without a retain loss", "--retain_loss"),
        ({"objective": "pdu", "retain_weight": 0}, "pdu without a retain loss", "--retain_weight"),
        ({"objective": "altpo", "idk_answers": "refusals.txt"}, "idk_answers with objective=altpo", "--idk_answers"),
    ],
    ids=str,
)
def test_what_contradicts_an_objective_is_refused(config, options, named, flags):
    with pytest.raises(ConfigError) as caught:
        config(**options)
    assert named in caught.value.got
    assert flags in caught.value.fix


def test_without_what_is_named_they_are_accepted(config):
    assert config(objective="task_vector", **UNGUIDED).retain_loss == "none"
    assert config(UnlearnConfig, objective="task_vector").retain_loss == "none"
    weightless = {"inter_entanglement": False, "intra_entanglement": False, "proxy_form": "penalty"}
    assert config(objective="finetune", **weightless, clreg_weight=0.1).retain_loss == "nll"
    for objective, retain in (("dpo", "nll"), ("altpo", "nll"), ("rmu", "features"), ("pdu", "nll")):
        assert config(objective=objective, clreg_weight=0.1).retain_loss == retain
