"""Losses by name: the only look-up, a user's own loss, and what is said when a name is wrong."""

import pytest

from egup_trainer.errors import ConfigError
from egup_trainer.losses import registry
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.losses.forget.gradient_ascent import GradientAscent, GradientDifference
from egup_trainer.losses.forget.misdirection import RMU
from egup_trainer.losses.forget.npo import NPO
from egup_trainer.losses.forget.preference import DPO, AltPO
from egup_trainer.losses.forget.primal_dual import PDU
from egup_trainer.losses.forget.simnpo import SimNPO
from egup_trainer.losses.forget.task_vector import TaskVector
from egup_trainer.losses.registry import Objective, forget_loss, register_forget_loss, retain_loss
from egup_trainer.losses.retain import RetainFeatures, RetainKL, RetainNLL


class Square(ForgetLoss):
    def __call__(self, outputs, reference):
        return -(outputs.mean_nll**2)


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_FORGET", dict(registry._FORGET))


@pytest.fixture
def names():
    return ", ".join(key.value if isinstance(key, Objective) else key for key in registry._FORGET)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("grad_ascent", GradientAscent),
        ("grad_diff", GradientDifference),
        ("npo", NPO),
        ("simnpo", SimNPO),
        ("dpo", DPO),
        ("altpo", AltPO),
        ("rmu", RMU),
        ("pdu", PDU),
        ("task_vector", TaskVector),
    ],
)
def test_forget_losses_by_name(name, loss):
    assert forget_loss(name) is loss
    assert forget_loss(Objective(name)) is loss


def test_retain_losses_by_name():
    losses = [retain_loss(name) for name in ("nll", "kl", "features", "none")]
    assert losses == [RetainNLL, RetainKL, RetainFeatures, None]


def test_each_default_retain_loss_exists():
    for name in Objective:
        retain_loss(forget_loss(name).default_retain_loss)


def test_one_registration_makes_a_loss_known():
    assert register_forget_loss("square", Square) is Square
    assert forget_loss("square") is Square
    assert isinstance(forget_loss("square").from_config(None), Square)


def test_registering_the_same_loss_again_is_harmless():
    register_forget_loss("square", Square)
    assert register_forget_loss("square", Square) is Square


def test_a_name_that_is_close_is_suggested(names):
    with pytest.raises(ConfigError) as caught:
        forget_loss("grad_dif")
    assert str(caught.value) == f"Got objective='grad_dif', but expected one of {names}. Did you mean grad_diff?"


def test_a_name_like_no_other(names):
    with pytest.raises(ConfigError) as caught:
        forget_loss("xyzzy")
    assert str(caught.value) == f"Got objective='xyzzy', but expected one of {names}. Choose one with --objective."


def test_own_names_are_among_the_allowed_ones():
    register_forget_loss("square", Square)
    with pytest.raises(ConfigError, match=r"finetune, .*square\. Did you mean square"):
        forget_loss("squares")


def test_an_unknown_retain_loss():
    with pytest.raises(ConfigError) as caught:
        retain_loss("xyzzy")
    assert str(caught.value) == (
        "Got retain_loss='xyzzy', but expected one of nll, kl, features, none. Choose one with --retain_loss."
    )


@pytest.mark.parametrize("name", ["npo", "square"])
def test_a_taken_name_is_refused(name):
    register_forget_loss("square", Square)
    with pytest.raises(ConfigError) as caught:
        register_forget_loss(name, type("Other", (Square,), {}))
    assert str(caught.value) == f"Got the name {name!r} twice, but expected a new name. Choose another one."
    assert forget_loss("npo") is NPO
    assert forget_loss("square") is Square


@pytest.mark.parametrize("value", [Square(), RetainNLL, "square", len], ids=["instance", "retain", "text", "function"])
def test_only_a_forget_loss_class_can_be_registered(value):
    with pytest.raises(ConfigError) as caught:
        register_forget_loss("mine", value)
    expected = f"Got {value!r} as a loss, but expected a subclass of ForgetLoss. Derive it from ForgetLoss."
    assert str(caught.value) == expected
