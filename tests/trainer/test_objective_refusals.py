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
            "got objective=task_vector with inter_entanglement, intra_entanglement, proxy_constraint; expected it "
            "without "
            f"them: {TURNED_ROUND}; leave out --inter_entanglement, leave out --intra_entanglement, add "
            "--no_proxy_constraint",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "clreg_weight": 0.1},
            f"got objective=task_vector with clreg_weight; expected it without them: {TURNED_ROUND}; leave out "
            "--clreg_weight",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "proxy_constraint": True, "proxy_form": "penalty"},
            f"got objective=task_vector with proxy_constraint; expected it without them: {TURNED_ROUND}; add "
            "--no_proxy_constraint",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "stop_at_boundary": True},
            "got objective=task_vector with stop_at_boundary; expected one of them: until the end of training the "
            "model "
            "goes away from the boundary; leave out --stop_at_boundary",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "retain_loss": "nll"},
            "got objective=task_vector with retain_loss=nll; expected none: what is learned of retain rows would be "
            "turned round, too; leave out --retain_loss",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "eval_strategy": "epoch"},
            "got objective=task_vector with eval_strategy=epoch; expected no: until the end of training the model "
            "knows "
            "the forget rows better and better; evaluate after training (egup evaluate)",
        ),
        (
            {"objective": "task_vector", **UNGUIDED, "push_to_hub": True, "hub_strategy": "every_save"},
            "got objective=task_vector with hub_strategy=every_save; expected end: until the end of training the model "
            "knows the forget rows better and better; set --hub_strategy end",
        ),
        (
            {"objective": "finetune", "proxy_constraint": False},
            "got objective=finetune with inter_entanglement, intra_entanglement; expected it without them: there is no "
            "forget loss to weigh; leave out --inter_entanglement, leave out --intra_entanglement",
        ),
        (
            {"objective": "pdu", "retain_loss": "none"},
            "got objective=pdu without a retain loss; expected one: it is the constraint under which rows are "
            "forgotten; "
            "leave out --retain_loss and --retain_weight",
        ),
        (
            {"objective": "pdu", "retain_weight": 0},
            "got objective=pdu without a retain loss; expected one: it is the constraint under which rows are "
            "forgotten; "
            "leave out --retain_loss and --retain_weight",
        ),
        (
            {"objective": "altpo", "idk_answers": "refusals.txt"},
            "got idk_answers with objective=altpo; expected both for dpo, or none; leave out --idk_answers",
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
