"""A user's own loss and components, given to the trainer as objects."""

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import furthest, weights_of, whole_and_resumed

from egup_trainer import Component, EGUPTrainer, ForgetLoss, UnlearnConfig, UnlearnTrainer
from egup_trainer.components.component import Needs
from egup_trainer.errors import ConfigError
from egup_trainer.losses.base import Guidance
from egup_trainer.losses.simnpo import SimNPO
from egup_trainer.records.card import model_card
from egup_trainer.records.facts import make_record


class Shorter(Component):
    """Weighs each forget row by 1 / n_i, adds a constant term, and counts the rows that it has seen."""

    name = "shorter"
    needs = Needs(features=True)
    acts_by = frozenset(Guidance)

    def __init__(self):
        self.count = torch.tensor(0)

    def weights(self, step):
        return 1 / step.forget.num_tokens.clamp_min(1)

    def terms(self, step):
        return {"constant": step.counts.per_forget_row(step.is_real * 3)}

    def commit(self, step):
        self.count = self.count + len(step.counts.forget_ids)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class PerToken(ForgetLoss):
    """-l_i / n_i, shape (B,): gradient difference as `Shorter` weighs it."""

    default_retain_loss = "none"

    def __call__(self, outputs, reference):
        return -outputs.mean_nll / outputs.num_tokens.clamp_min(1)


@pytest.fixture
def make(make_model, tokenizer, config):
    def make(kind=UnlearnTrainer, own=None, loss=None, **options):
        options = {"objective": "grad_ascent", "optim": "sgd", "learning_rate": 0.1, **options}
        args = config(kind.config_class, **options)
        sets = {"forget_dataset": qa_rows(0, 10), "retain_dataset": qa_rows(20, 33), "processing_class": tokenizer}
        return kind(make_model(), args, **sets, components=own or (), forget_loss=loss)

    return make


def test_an_own_component_weighs_adds_a_term_is_logged_recorded_and_resumed(make, tmp_path):
    whole, resumed = whole_and_resumed(lambda **options: make(own=[Shorter()], **options), tmp_path, 2)
    logs = [row for row in whole.state.log_history if "loss" in row]
    assert all(row["loss_constant"] == pytest.approx(3) for row in logs)
    assert all(row["weight_max"] < 1 for row in logs)
    assert whole.component(Shorter).count == 20
    record = make_record(whole)
    assert record["components"] == ["shorter"]
    assert "other components: shorter" in str(model_card(record, None, "mine"))
    assert resumed.component(Shorter).count == 20


def test_an_own_loss_does_what_the_same_weights_do(make):
    weighted, own = make(own=[Shorter()]), make(loss=PerToken())
    weighted.train()
    own.train()
    assert (own.args.objective, own.args.retain_loss) == ("PerToken", "none")
    assert make_record(own)["objective"] == "PerToken"
    assert furthest(weights_of(weighted), weights_of(own)) < 1e-6


def test_an_own_loss_has_the_defaults_of_its_class_and_the_options_that_were_set(make):
    assert make(EGUPTrainer, loss=SimNPO(beta=2.0), objective="npo").args.retain_loss == "nll"
    assert make(EGUPTrainer, loss=PerToken(), objective="npo", retain_loss="kl").args.retain_loss == "kl"


def test_defaults_of_an_own_loss_may_be_whole_numbers(make):
    class Weighed(PerToken):
        default_retain_loss, default_retain_weight, default_proxy_lambda = "nll", 3, 2

    args = make(EGUPTrainer, loss=Weighed(), objective="grad_diff", proxy_constraint=False).args
    assert (args.retain_weight, args.proxy_lambda) == (3.0, 2.0)


def test_auto_with_an_own_loss_that_raises_nothing_is_refused(make):
    class Keeping(PerToken):
        raises_nll = False

    with pytest.raises(ConfigError, match="auto with objective=Keeping, which does not make forget rows less likely"):
        make(EGUPTrainer, loss=Keeping(), objective="grad_diff", auto=True, proxy_constraint=False)


def test_two_components_of_one_name_are_refused(make):
    with pytest.raises(ConfigError) as caught:
        make(own=[Shorter(), Shorter()])
    assert "shorter" in caught.value.got


def test_a_component_that_the_objective_cannot_support_is_refused(make):
    with pytest.raises(ConfigError) as caught:
        make(own=[Shorter()], objective="task_vector")
    assert "shorter" in caught.value.got
    assert "shorter" in caught.value.fix


def test_a_configuration_is_not_changed_by_an_own_loss(make, config, make_model, tokenizer):
    args = config(UnlearnConfig, objective="npo")
    UnlearnTrainer(make_model(), args, qa_rows(0, 4), processing_class=tokenizer, forget_loss=PerToken())
    assert (args.objective, args.retain_loss) == ("npo", "nll")
