"""Losses by name: the only look-up, a user's own loss, and what is said when a name is wrong."""

from types import SimpleNamespace

import pytest

from egup_trainer import UnlearnConfig
from egup_trainer.errors import ConfigError
from egup_trainer.losses import registry
from egup_trainer.losses.base import Alternate, ForgetLoss, RetainConstraint, Unit
from egup_trainer.losses.npo import NPO
from egup_trainer.losses.registry import forget_loss, make_forget_loss, register_forget_loss, retain_loss
from egup_trainer.losses.retain_losses import RetainFeatures, RetainKL, RetainNLL
from egup_trainer.modeling.reference import Need


class Square(ForgetLoss):
    def __call__(self, outputs, reference):
        return -(outputs.mean_nll**2)


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "OBJECTIVES", dict(registry.OBJECTIVES))


@pytest.mark.parametrize("name", list(registry.OBJECTIVES))
def test_each_objective_is_in_the_file_of_its_name(name):
    assert forget_loss(name).__module__ == f"egup_trainer.losses.{name}"
    assert retain_loss(forget_loss(name).default_retain_loss) or name in ("grad_ascent", "task_vector")


def test_retain_losses_by_name():
    losses = [retain_loss(name) for name in ("nll", "kl", "features", "none")]
    assert losses == [RetainNLL, RetainKL, RetainFeatures, None]


DECLARED = {  # needs, unit, whether it supports negative weights, what it reads beside log-probabilities
    "grad_ascent": (set(), Unit.MEAN, True, None),
    "grad_diff": (set(), Unit.MEAN, True, None),
    "npo": ({Need.NLL}, Unit.SUM, True, None),
    "simnpo": (set(), Unit.MEAN, True, None),
    "wga": (set(), Unit.MEAN, True, None),
    "satimp": (set(), Unit.MEAN, True, None),
    "ceu": (set(), Unit.MEAN, False, "logits"),
    "undial": ({Need.LOGITS}, Unit.MEAN, False, "logits"),
    "dpo": ({Need.NLL}, Unit.SUM, True, Alternate.REFUSAL),
    "altpo": ({Need.NLL}, Unit.SUM, True, Alternate.GIVEN),
    "rmu": (set(), Unit.MEAN, False, "hidden"),
    "pdu": (set(), Unit.MEAN, False, "logits"),
    "proxy_kl": ({Need.EXPECTED}, Unit.MEAN, True, "logits"),
    "task_vector": (set(), Unit.MEAN, True, None),
    "finetune": (set(), Unit.MEAN, True, None),
}


@pytest.mark.parametrize("name", list(registry.OBJECTIVES))
def test_what_losses_say_of_themselves(name):
    loss = forget_loss(name)()
    reads = loss.alternate or ("logits" if loss.reads_logits else "hidden" if loss.reads_hidden else None)
    assert (loss.needs, loss.unit, loss.supports_negative_weight, reads) == DECLARED[name]


def test_one_registration_makes_a_loss_known():
    assert register_forget_loss("square", Square) is Square
    assert forget_loss("square") is Square
    assert isinstance(forget_loss("square").from_config(SimpleNamespace()), Square)


def test_registering_the_same_loss_again_is_harmless():
    register_forget_loss("square", Square)
    assert register_forget_loss("square", Square) is Square


@pytest.mark.parametrize(
    ("find", "name", "option", "fix"),
    [
        (forget_loss, "grad_dif", "objective", "did you mean grad_diff?"),
        (forget_loss, "squares", "objective", "did you mean square?"),
        (forget_loss, "xyzzy", "objective", "choose one with --objective"),
        (retain_loss, "xyzzy", "retain_loss", "choose one with --retain_loss"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(find, name, option, fix):
    register_forget_loss("square", Square)
    with pytest.raises(ConfigError) as caught:
        find(name)
    known = registry.OBJECTIVES if find is forget_loss else registry.RETAIN_LOSSES
    assert (caught.value.got, caught.value.fix) == (f"{option}={name!r}", fix)
    assert all(each in caught.value.expected for each in known)


@pytest.mark.parametrize("name", ["npo", "square"])
def test_a_taken_name_is_refused(name):
    register_forget_loss("square", Square)
    with pytest.raises(ConfigError) as caught:
        register_forget_loss(name, type("Other", (Square,), {}))
    assert repr(name) in caught.value.got
    assert (forget_loss("npo"), forget_loss("square")) == (NPO, Square)


@pytest.mark.parametrize("value", [Square(), RetainNLL, "square", len], ids=["instance", "retain", "text", "function"])
def test_only_a_forget_loss_class_can_be_registered(value):
    with pytest.raises(ConfigError) as caught:
        register_forget_loss("mine", value)
    assert repr(value) in caught.value.got


OPTIONS = [
    ("npo", {"npo_beta": 0.3}, {"beta": 0.3}),
    ("npo", {"npo_beta": "auto"}, {"beta": None}),
    ("simnpo", {"simnpo_beta": 1.5, "simnpo_delta": 0.25}, {"beta": 1.5, "delta": 0.25}),
    ("wga", {"wga_beta": 0.3}, {"beta1": 0.3, "beta2": 0.0}),
    ("satimp", {"satimp_beta1": 2.0, "satimp_beta2": 3.0}, {"beta1": 2.0, "beta2": 3.0}),
    ("undial", {"undial_strength": 4.0}, {"strength": 4.0}),
    ("dpo", {"dpo_beta": 0.3}, {"beta": 0.3}),
    ("altpo", {"dpo_beta": 0.3}, {"beta": 0.3}),
    ("rmu", {"rmu_steering": 6.5, "seed": 3}, {"steering": 6.5, "seed": 3}),
    ("task_vector", {"task_vector_scale": 0.5}, {"scale": 0.5}),
    (
        "pdu",
        {"pdu_retain_eps": 1.0, "pdu_dual_start": 2.0, "pdu_dual_rate": 3.0, "pdu_warmup_epochs": 4.0},
        {"retain_constraint": RetainConstraint(1.0, 2.0, 3.0, 4.0)},
    ),
]


@pytest.mark.parametrize(("name", "options", "expected"), OPTIONS)
def test_options_come_from_the_configuration(config, name, options, expected):
    loss = make_forget_loss(config(UnlearnConfig, objective=name, **options))
    assert {option: getattr(loss, option) for option in expected} == expected


@pytest.mark.parametrize("kwargs", [{"beta": 0.7}, '{"beta": 0.7}'], ids=["dict", "JSON"])
def test_objective_kwargs_replace_the_flags(config, kwargs):
    given = config(UnlearnConfig, objective="npo", npo_beta=0.3, objective_kwargs=kwargs)
    assert make_forget_loss(given).beta == 0.7


def test_objective_kwargs_that_the_loss_does_not_have_are_refused(config):
    with pytest.raises(ConfigError) as caught:
        config(UnlearnConfig, objective="simnpo", objective_kwargs={"betta": 1.0})
    assert "betta" in caught.value.got
    assert "simnpo" in caught.value.got
