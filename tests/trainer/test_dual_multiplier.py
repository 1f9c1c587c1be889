"""PDU in a run: the multiplier by hand, its warm-up, its log, and that a resumed run goes on with it."""

import pytest
from fixtures_trainer import logged, whole_and_resumed

from egup_trainer.components.retain import RetainObjective

PDU = {"objective": "pdu", "pdu_dual_start": 2.0, "pdu_dual_rate": 0.3, "pdu_retain_eps": 1.0}


def test_the_multiplier_follows_the_retain_loss_of_whole_steps(make_trainer):
    trainer = make_trainer(**PDU, per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=3)
    trainer.train()
    multiplier, expected = 2.0, []
    for retain in logged(trainer, "retain_nll"):
        multiplier = max(0.0, multiplier + 0.3 * (retain - 1.0))
        expected.append(multiplier)
    assert logged(trainer, "retain_multiplier") == pytest.approx(expected, rel=1e-5)
    assert expected[-1] > 3


def test_the_retain_term_carries_the_multiplier_of_the_step_before(make_trainer):
    trainer = make_trainer(**PDU, retain_weight=0.5)
    trainer.train()
    weights = [2.0, *logged(trainer, "retain_multiplier")[:-1]]
    terms = [0.5 * weight * retain for weight, retain in zip(weights, logged(trainer, "retain_nll"), strict=True)]
    assert logged(trainer, "loss_retain") == pytest.approx(terms, rel=1e-4)


def test_it_never_falls_below_0(make_trainer):
    trainer = make_trainer(**{**PDU, "pdu_retain_eps": 100.0})
    trainer.train()
    assert set(logged(trainer, "retain_multiplier")) == {0.0}
    assert logged(trainer, "loss_retain")[1:] == [0.0] * 5


def test_it_stays_as_it_is_through_the_warm_up(make_trainer):
    trainer = make_trainer(**PDU, pdu_warmup_epochs=1)  # 3 steps an epoch
    trainer.train()
    values = logged(trainer, "retain_multiplier")
    assert values[:3] == [2.0] * 3
    assert values[3] > 2.0


@pytest.mark.parametrize("trainer_of", ["make_trainer", "make_plain_trainer"])
def test_a_resumed_run_goes_on_with_the_multiplier(request, trainer_of, tmp_path):
    make = request.getfixturevalue(trainer_of)
    whole, resumed = whole_and_resumed(make, tmp_path, 4, **PDU)
    assert resumed.component(RetainObjective).multiplier == whole.component(RetainObjective).multiplier
