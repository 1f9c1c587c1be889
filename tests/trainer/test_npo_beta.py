"""npo_beta=auto: NPO's pull has halved when the forget rows reach the boundary that proxies mark."""

import math

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import whole_and_resumed

from egup_trainer import EGUPTrainer
from egup_trainer.components.proxy_constraint import ProxyConstraint, proxy_effort
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.npo import NPO
from egup_trainer.modeling.outputs import AnswerOutputs

AUTO = {"objective": "npo", "npo_beta": "auto"}


def pull(loss: NPO, rise: float) -> float:
    """dLoss/dlog p of a token of a row of two, which has become less likely by `rise` nats."""
    logps = torch.tensor([-2.0, -3.0 - rise], requires_grad=True)
    outputs = AnswerOutputs(logps, torch.tensor([0, 0]), torch.tensor([2.0]))
    return torch.autograd.grad(loss(outputs, ReferenceOutputs(torch.tensor([5.0]))).sum(), logps)[0][0].item()


def test_the_pull_is_that_of_gradient_difference_and_halves_at_the_boundary():
    loss = NPO(beta=None).for_boundary(120.0)
    assert loss.beta == pytest.approx(math.log(3) / 120)
    assert pull(loss, 0.0) == pytest.approx(0.5)  # 1 / n_i
    assert pull(loss, 120.0) == pytest.approx(0.25)
    assert pull(NPO(loss.beta), 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "strength"),
    [
        ({}, 2.0),
        (AUTO, 1.0),
        ({**AUTO, "proxy_lambda": 2.0}, 2.0),
        ({"objective": "grad_diff", "npo_beta": "auto"}, 2.0),
    ],
)
def test_the_constraint_leaves_half_of_itself_at_the_boundary_where_the_pull_fades_itself(
    make_trainer, taught, options, strength
):
    trainer = make_trainer(taught(), **options)
    trainer.begin_training()
    assert trainer.args.proxy_lambda == strength
    constraint = trainer.component(ProxyConstraint)
    effort = proxy_effort(torch.tensor([-9.0, 0.0, 9.0]), torch.zeros(3), constraint.strength)
    assert effort.tolist() == pytest.approx([1.0, 1 - strength / 2, 1 - strength])


def test_a_beta_that_is_set_stays():
    loss = NPO(beta=0.1)
    assert loss.for_boundary(120.0) is loss


def test_rows_beyond_the_boundary_are_refused():
    with pytest.raises(DataError) as error:
        NPO(beta=None).for_boundary(-2.5)
    assert "2.5 nats less likely" in error.value.got


@pytest.mark.parametrize("proxy_constraint", [True, False])
def test_beta_follows_from_the_rows_of_the_scan(make_trainer, taught, proxy_constraint):
    trainer = make_trainer(taught(), **AUTO, proxy_match="mean", proxy_constraint=proxy_constraint)
    forget, proxies = (trainer.score(rows) for rows in (trainer.forget_rows, trainer.proxy_rows))
    needed = (forget.num_tokens * proxies.mean_nll.mean() - forget.sum_nll).mean().item()
    trainer.train()
    assert needed > 0
    assert trainer.forget_loss.beta == pytest.approx(math.log(3) / needed, rel=1e-5)
    assert trainer.component(ProxyConstraint).is_on is proxy_constraint


def test_a_resumed_run_keeps_its_beta(make_trainer, taught, tmp_path):
    whole, resumed = whole_and_resumed(lambda **options: make_trainer(taught(), **options), tmp_path, 2, **AUTO)
    assert resumed.forget_loss.beta == whole.forget_loss.beta


def test_without_proxies_it_is_refused(make_trainer, make_plain_trainer):
    for make in (lambda: make_trainer(proxies=False, **AUTO), lambda: make_plain_trainer(**AUTO)):
        with pytest.raises(ConfigError) as error:
            make()
        assert "npo_beta=auto" in error.value.got


def test_flags_take_numbers_and_auto(tmp_path):
    from egup_trainer.cli.parser import Parser

    for text, expected in (("auto", "auto"), ("0.02", 0.02)):
        parser = Parser([EGUPTrainer.config_class])
        (parsed,) = parser.parse(["--output_dir", str(tmp_path), "--npo_beta", text])
        assert parsed.npo_beta == expected


def test_proxies_that_equal_forget_rows_are_still_refused(make_model, tokenizer, config):
    with pytest.raises(DataError):
        EGUPTrainer(
            make_model(),
            config(**AUTO, proxy_constraint=False),
            forget_dataset=qa_rows(0, 4),
            retain_dataset=qa_rows(20, 24),
            proxy_dataset=qa_rows(0, 4),
            processing_class=tokenizer,
        )
