"""Stopping at the boundary: when, when not, and the same after a resume."""

import pytest
import torch
from fixtures_trainer import furthest, logged, weights_of, whole_and_resumed

from egup_trainer.components import stop_at_boundary
from egup_trainer.errors import DataError
from egup_trainer.modeling.ks_test import ks_p_value

OFF = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}


def test_two_sets_far_apart_are_told_apart():
    near, far = torch.linspace(1, 2, 20), torch.linspace(5, 6, 15)
    assert ks_p_value(near.tolist(), far.tolist()) < 1e-6
    assert ks_p_value(near.tolist(), (near + 0.01).tolist()) > 0.9


def test_it_stops_after_the_first_epoch_in_which_nothing_tells_the_rows_apart(make_trainer):
    """A model with random weights knows neither forget rows nor proxies."""
    trainer = make_trainer(stop_at_boundary=True, num_train_epochs=5, learning_rate=1e-6)
    trainer.train()
    assert trainer.state.global_step == 3
    forget, proxies = (trainer.score(rows).mean_nll for rows in (trainer.forget_rows, trainer.proxy_rows))
    assert logged(trainer, "boundary_p") == [pytest.approx(ks_p_value(forget.tolist(), proxies.tolist()))]
    assert logged(trainer, "retain_rise") == [pytest.approx(0, abs=1e-3)]


def test_so_few_rows_that_it_would_stop_whatever_the_model_says_are_refused(make_trainer):
    with pytest.raises(DataError) as caught:
        make_trainer(stop_at_boundary=True, forget=1)
    assert caught.value.got == (
        "stop_at_boundary with 1 forget rows and 6 proxies: the test's p-value is 0.29 or more, whatever the model says"
    )


def test_it_goes_on_while_the_rows_are_told_apart(make_trainer, monkeypatch):
    p_values = iter([0.001, 0.05, 0.051, 0.9])
    monkeypatch.setattr(stop_at_boundary, "ks_p_value", lambda *args: next(p_values))
    trainer = make_trainer(stop_at_boundary=True, stop_retain_rise=100.0, num_train_epochs=9, verdict=True)
    trainer.train()
    assert logged(trainer, "boundary_p") == [0.001, 0.05, 0.051]
    assert logged(trainer, "at_boundary") == [0.0, 0.0, 1.0]
    assert trainer.state.global_step == 9
    assert trainer.verdict.remarks[-1] == (
        "Training ended at epoch 3 of 9; forget rows first looked like rows never seen at epoch 3."
    )


def test_a_run_that_never_reaches_the_boundary_says_so(make_trainer, monkeypatch):
    monkeypatch.setattr(stop_at_boundary, "ks_p_value", lambda *args: 0.0312)
    trainer = make_trainer(stop_at_boundary=True, num_train_epochs=2, verdict=True)
    monkeypatch.setattr(trainer.component(stop_at_boundary.StopAtBoundary), "measure_retain_rise", lambda: -0.071)
    trainer.train()
    assert trainer.verdict.remarks[-1] == (
        "Training ended at epoch 2 of 2; forget rows never looked like rows never seen while retain rows held "
        "(at epoch 2, p = 0.031, and the loss of retain rows -0.071 nats per token)."
    )


def test_a_run_without_a_boundary_says_when_it_ended(make_trainer):
    trainer = make_trainer(max_steps=4, verdict=True)
    trainer.train()
    assert trainer.verdict.remarks[-1] == "Training ended at epoch 1.33 of 2."


def test_it_goes_on_while_retain_rows_have_not_come_back(make_trainer, monkeypatch):
    rises = iter([0.5, 0.31, 0.3, 0.0])
    trainer = make_trainer(stop_at_boundary=True, stop_retain_rise=0.3, num_train_epochs=9, learning_rate=1e-6)
    constraint = trainer.component(stop_at_boundary.StopAtBoundary)
    monkeypatch.setattr(constraint, "measure_retain_rise", lambda: next(rises))
    trainer.train()
    assert logged(trainer, "retain_rise") == [0.5, 0.31, 0.3]


@pytest.mark.parametrize("options", [{}, OFF], ids=["with EGUP", "plain"])
def test_the_rise_is_measured_from_before_unlearning(make_trainer, make_model, options):
    trainer = make_trainer(stop_at_boundary=True, stop_retain_rise=0.0, num_train_epochs=1, **options)
    before = trainer.score(trainer.retain_rows).mean_nll.mean()
    trainer.train()
    rise = float(trainer.score(trainer.retain_rows).mean_nll.mean() - before)
    assert abs(rise) > 1e-3
    assert logged(trainer, "retain_rise") == [pytest.approx(rise, abs=1e-6)]


def test_proxies_that_only_tell_when_to_stop_change_nothing_else(make_trainer):
    options = {**OFF, "num_train_epochs": 1}
    alone, watched = make_trainer(proxies=False, **options), make_trainer(stop_at_boundary=True, **options)
    alone.train()
    watched.train()
    assert furthest(weights_of(alone), weights_of(watched)) == 0


def test_a_resumed_run_stops_by_its_own_measurement_and_not_by_that_of_auto(make_trainer):
    """Their limits of the retain rows' loss differ, and both log at the end of an epoch, auto last."""
    trainer = make_trainer(stop_at_boundary=True, auto=True, num_train_epochs=9)
    component, state, control = trainer.component(stop_at_boundary.StopAtBoundary), trainer.state, trainer.control
    state.global_step, state.epoch = 3, 1.0
    for own, of_auto in ((0.0, 1.0), (1.0, 0.0)):
        state.log_history = [{"step": 3, "at_boundary": own}, {"step": 3, "at_boundary": of_auto}]
        component.on_train_begin(trainer.args, state, control)
        component.on_epoch_begin(trainer.args, state, control)
        assert control.should_training_stop == bool(own)


def test_a_resumed_run_stops_where_an_uninterrupted_one_does(make_trainer, tmp_path):
    options = {"stop_at_boundary": True, "stop_retain_rise": 0.05, "num_train_epochs": 4}
    whole, resumed = whole_and_resumed(make_trainer, tmp_path, 2, **options)
    assert logged(resumed, "retain_rise") == logged(whole, "retain_rise")


def test_without_proxies_there_is_nothing_to_look_like(make_trainer):
    with pytest.raises(DataError) as error:
        make_trainer(proxies=False, stop_at_boundary=True)
    assert error.value.got == "no proxy set, which --stop_at_boundary reads"
