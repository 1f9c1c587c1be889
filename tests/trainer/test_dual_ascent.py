"""Lambda learned by dual ascent: its steps by hand, its memory, and what it leaves alone."""

import pytest
import torch
from fixtures_components import options
from fixtures_trainer import furthest, logged, runs_of_any_cut, weights_of, whole_and_resumed

from egup_trainer.components.proxy_constraint import ProxyConstraint
from egup_trainer.losses.grad_diff import GradientDifference


def constraint(rate, start=2.0):
    return ProxyConstraint(options(proxy_lambda=start, proxy_dual_rate=rate), GradientDifference())


def test_lambda_rises_past_the_boundary_and_falls_before_it():
    learning = constraint(rate=0.5)
    learning.learn_strength(torch.tensor([1.0, 3.0]))  # mean 2
    assert learning.strength.item() == pytest.approx(3.0)
    learning.learn_strength(torch.tensor([-1.0]))
    assert learning.strength.item() == pytest.approx(2.5)


def test_lambda_is_never_negative():
    learning = constraint(rate=1.0, start=0.5)
    learning.learn_strength(torch.tensor([-9.0]))
    assert learning.strength.item() == 0.0
    learning.learn_strength(torch.tensor([0.25]))
    assert learning.strength.item() == 0.25


@pytest.mark.parametrize("form", ["effort", "penalty"])
def test_each_step_moves_lambda_by_the_gap_of_its_own_rows(make_trainer, form):
    trainer = make_trainer(proxy_dual_rate=0.3, proxy_form=form, proxy_lambda=1.0)
    trainer.train()
    expected, gaps = 1.0, logged(trainer, "boundary_gap")
    for gap, value in zip(gaps, logged(trainer, "proxy_lambda"), strict=True):  # logged at each step
        expected = max(0.0, expected + 0.3 * gap)
        assert value == pytest.approx(expected, abs=1e-5)
    assert len(set(gaps)) > 3


def test_a_learned_lambda_is_the_one_that_weighs(make_trainer):
    fixed, learned = make_trainer(), make_trainer(proxy_dual_rate=5.0)
    fixed.train()
    learned.train()
    assert furthest(weights_of(fixed), weights_of(learned)) > 1e-4


def test_a_step_may_be_cut_in_any_way(make_trainer):
    options = {"proxy_dual_rate": 0.5, "optim": "sgd", "learning_rate": 0.05}
    first, second = runs_of_any_cut(make_trainer, [(4, 1), (1, 4)], **options)
    assert logged(first, "proxy_lambda") == pytest.approx(logged(second, "proxy_lambda"), abs=1e-5)


def test_a_resumed_run_goes_on_with_the_lambda_that_it_had(make_trainer, tmp_path):
    whole, resumed = whole_and_resumed(make_trainer, tmp_path, 4, proxy_dual_rate=0.5, num_train_epochs=3)
    assert logged(resumed, "proxy_lambda") == logged(whole, "proxy_lambda")
