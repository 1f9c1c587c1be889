"""Every objective in a real run: it forgets, keeps, carries EGUP and CLReg, and does not care how a step is cut."""

import pytest
from fixtures_trainer import furthest, weights_of

from egup_trainer.losses.registry import Objective

FORGETTING = [objective.value for objective in Objective if objective is not Objective.FINETUNE]


@pytest.mark.parametrize("objective", [objective.value for objective in Objective])
def test_a_step_may_be_cut_in_any_way(make_trainer, objective):
    """Means of micro-batch means would differ, and so would means over prompt and padding."""
    options = {
        "objective": objective,
        "clreg_weight": 0.1,
        "optim": "sgd",
        "learning_rate": 0.05,
    }
    runs = []
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        trainer = make_trainer(
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs=1, **options
        )
        trainer.train()
        runs.append(weights_of(trainer))
    assert furthest(runs[0], runs[1]) < 1e-6
    assert furthest(runs[0], runs[2]) < 1e-6


@pytest.mark.parametrize("objective", FORGETTING)
def test_forget_rows_become_less_likely(make_trainer, objective):
    """Without a boundary, so that nothing but the objective is at work; on a model that knows no row by heart, whose
    tokens some objectives would let go."""
    trainer = make_trainer(
        proxies=False,
        objective=objective,
        retain_loss="none",
        inter_entanglement=False,
        intra_entanglement=False,
        satimp_beta1=0.5,
        simnpo_beta=0.1,
    )
    before = trainer.score(trainer.forget_rows).mean_nll.mean()
    trainer.train()
    assert trainer.score(trainer.forget_rows).mean_nll.mean() > before + 0.01


def test_fine_tuning_learns_the_retain_rows_alone(make_trainer):
    trainer = make_trainer(objective="finetune", proxies=False, num_train_epochs=4)
    before = trainer.score(trainer.retain_rows).mean_nll.mean()
    trainer.train()
    assert trainer.score(trainer.retain_rows).mean_nll.mean() < before - 0.5
    logged = [row["loss_forget"] for row in trainer.state.log_history if "loss_forget" in row]
    assert logged
    assert set(logged) == {0.0}


@pytest.mark.parametrize("objective", ["ceu", "undial"])
def test_efforts_below_0_count_as_0_where_a_pull_back_has_no_meaning(make_trainer, objective):
    trainer = make_trainer(objective=objective, num_train_epochs=4, learning_rate=5e-2)
    trainer.train()
    weights = [row["weight_min"] for row in trainer.state.log_history if "weight_min" in row]
    assert min(weights) == 0.0
