"""Every objective in a real run: it forgets, keeps, carries EGUP and CLReg, and does not care how a step is cut."""

import pytest
from conftest import qa_rows
from fixtures_trainer import logged, runs_of_any_cut

from egup_trainer.losses.registry import OBJECTIVES

UNWEIGHTED = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
ALTERNATES = [
    {**row, "alternate_answer": other["answer"]} for row, other in zip(qa_rows(0, 10), qa_rows(60, 70), strict=True)
]
OWN = {
    "altpo": {"forget": ALTERNATES},
    "rmu": {"rmu_layer": -1, "rmu_steering": 20.0},
    "pdu": {"pdu_dual_start": 2.0, "pdu_dual_rate": 0.5},
    "task_vector": UNWEIGHTED,
    "finetune": UNWEIGHTED,
}
"""What an objective needs besides the defaults."""
ALL = list(OBJECTIVES)
FORGETTING = [name for name in ALL if name != "finetune"]
TO_FORGET_WHAT_IS_KNOWN = {"satimp_beta1": 1.0, "simnpo_beta": 1.0}
"""A model that knows little or all by heart would hardly move with the defaults."""


@pytest.mark.parametrize("objective", ALL)
def test_a_step_may_be_cut_in_any_way(make_trainer, objective):
    """Means of micro-batch means would differ, and so would means over prompt and padding."""
    own = OWN.get(objective, {})
    options = {
        "clreg_weight": 0.0 if objective == "task_vector" else 0.1,
        "objective": objective,
        "optim": "sgd",
        "learning_rate": 0.05,
        **own,
    }
    runs_of_any_cut(make_trainer, [(8, 1), (2, 4), (1, 8)], num_train_epochs=1, **options)


@pytest.mark.parametrize("objective", FORGETTING)
def test_rows_known_by_heart_are_forgotten_with_egup_and_clreg(make_trainer, taught, objective):
    guided = {"clreg_weight": 0.0 if objective == "task_vector" else 0.1}
    trainer = make_trainer(
        taught(), objective=objective, num_train_epochs=4, **guided, **TO_FORGET_WHAT_IS_KNOWN, **OWN.get(objective, {})
    )
    before = trainer.score(trainer.forget_rows).mean_nll.mean()
    assert before < 0.2
    trainer.train()
    assert trainer.score(trainer.forget_rows).mean_nll.mean() > before + 0.3


def test_fine_tuning_learns_the_retain_rows_alone(make_trainer):
    trainer = make_trainer(objective="finetune", **UNWEIGHTED, num_train_epochs=4)
    before = trainer.score(trainer.retain_rows).mean_nll.mean()
    trainer.train()
    assert trainer.score(trainer.retain_rows).mean_nll.mean() < before - 0.5
    assert set(logged(trainer, "loss_forget")) == {0.0}


@pytest.mark.parametrize("objective", ["ceu", "undial", "rmu", "pdu"])
def test_efforts_below_0_count_as_0_where_a_pull_back_has_no_meaning(make_trainer, taught, objective):
    trainer = make_trainer(
        taught(), objective=objective, num_train_epochs=4, learning_rate=5e-2, **OWN.get(objective, {})
    )
    trainer.train()
    assert min(logged(trainer, "weight_min")) == 0.0


@pytest.mark.parametrize("objective", ["dpo", "altpo"])
def test_a_row_past_its_boundary_is_pulled_back_where_that_is_sound(make_trainer, taught, objective):
    trainer = make_trainer(
        taught(), objective=objective, num_train_epochs=4, learning_rate=5e-2, **OWN.get(objective, {})
    )
    trainer.train()
    assert min(logged(trainer, "weight_min")) < 0
