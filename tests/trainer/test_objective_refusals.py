"""What an objective cannot carry or use is refused in one line that names the flags."""

import pytest

from egup_trainer import UnlearnConfig
from egup_trainer.errors import ConfigError

UNGUIDED = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
TURNED_ROUND = "the training is turned round at its end, and what they did with it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "task_vector"},
            "Got objective=task_vector with inter_entanglement, intra_entanglement, proxy_constraint, but expected it "
            "without "
            f"them: {TURNED_ROUND}. Leave out --inter_entanglement, leave out --intra_entanglement, add "
            "--no_proxy_constraint.",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "clreg_weight": 0.1},
            f"Got objective=task_vector with clreg_weight, but expected it without them: {TURNED_ROUND}. Leave out "
            "--clreg_weight.",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "proxy_constraint": True, "proxy_form": "penalty"},
            f"Got objective=task_vector with proxy_constraint, but expected it without them: {TURNED_ROUND}. Add "
            "--no_proxy_constraint.",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "stop_at_boundary": True},
            "Got objective=task_vector with stop_at_boundary, but expected one of them: until the end of training the "
            "model "
            "goes away from the boundary. Leave out --stop_at_boundary.",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "retain_loss": "nll"},
            "Got objective=task_vector with retain_loss=nll, but expected none: what is learned of retain rows would "
            "be "
            "turned round, too. Leave out --retain_loss.",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "eval_strategy": "epoch"},
            "Got objective=task_vector with eval_strategy=epoch, but expected no: until the end of training the model "
            "knows "
            "the forget rows better and better. Evaluate after training (egup evaluate).",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "push_to_hub": True, "hub_strategy": "every_save"},
            "Got objective=task_vector with hub_strategy=every_save, but expected end: until the end of training the "
            "model "
            "knows the forget rows better and better. Set --hub_strategy end.",
        ),
        (
            {"objective": "finetune", "proxy_constraint": False},
            "Got objective=finetune with inter_entanglement, intra_entanglement, but expected it without them: there "
            "is no "
            "forget loss to weigh. Leave out --inter_entanglement, leave out --intra_entanglement.",
        ),
        (
            {"objective": "pdu", "retain_loss": "none"},
            "Got objective=pdu without a retain loss, but expected one: it is the constraint under which rows are "
            "forgotten. "
            "Leave out --retain_loss and --retain_weight.",
        ),
        (
            {"objective": "pdu", "retain_weight": 0},
            "Got objective=pdu without a retain loss, but expected one: it is the constraint under which rows are "
            "forgotten. "
            "Leave out --retain_loss and --retain_weight.",
        ),
        (
            {"objective": "altpo", "idk_answers": "refusals.txt"},
            "Got idk_answers with objective=altpo, but expected both for dpo, or none. Leave out --idk_answers.",
        ),
    ],
    ids=str,
)
def test_what_contradicts_an_objective_is_refused(config, options, message):
    with pytest.raises(ConfigError) as caught:
        config(**options)
    assert str(caught.value) == message


def test_without_what_is_named_they_are_accepted(config):
    assert config(objective="task_vector", **UNGUIDED).retain_loss == "none"
    assert config(UnlearnConfig, objective="task_vector").retain_loss == "none"
    weightless = {"inter_entanglement": False, "intra_entanglement": False, "proxy_form": "penalty"}
    assert config(objective="finetune", **weightless, clreg_weight=0.1).retain_loss == "nll"
    for objective, retain in (("dpo", "nll"), ("altpo", "nll"), ("rmu", "features"), ("pdu", "nll")):
        assert config(objective=objective, clreg_weight=0.1).retain_loss == retain
