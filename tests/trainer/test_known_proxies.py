"""Proxies that the model knows, and forget rows that it does not know, are refused before the first step."""

import re

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import weights_of

from egup_trainer import EGUPTrainer
from egup_trainer.components.known_proxies import refuse_known_proxies, refuse_unknown_rows
from egup_trainer.errors import DataError


def trainer_with(proxies, model, tokenizer, config, **options):
    rows = {"forget_dataset": qa_rows(0, 10), "retain_dataset": qa_rows(20, 26), "proxy_dataset": proxies}
    args = config(**{"objective": "grad_diff", "max_steps": 1, **options})
    return EGUPTrainer(model, args, processing_class=tokenizer, **rows)


def test_retain_rows_as_proxies_are_refused_before_the_first_step(taught, tokenizer, config):
    trainer = trainer_with(qa_rows(26, 33), taught(), tokenizer, config)
    before = weights_of(trainer)
    with pytest.raises(DataError, match=r"^Got proxies as likely before unlearning \(probability 0\.9\d+\) as the "):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(trainer).items())


def test_rows_that_the_model_never_saw_are_taken(taught, tokenizer, config):
    trainer = trainer_with(qa_rows(40, 46), taught(), tokenizer, config)
    trainer.train()
    assert trainer.state.global_step == 1


def test_the_remedy_works(taught, tokenizer, config):
    trainer = trainer_with(qa_rows(26, 33), taught(), tokenizer, config, proxy_constraint=False)
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("forget", "boundary", "is_refused"),
    [
        ([0.02, 0.04], [0.03, 0.05], True),
        ([0.02, 0.04], [0.02, 2.0], False),  # one of two has far to go: mean probability 0.56, not 0.97
        ([0.02, 0.04], [0.13, 0.15], False),  # 0.87 of 0.97, a tenth less
        ([2.2, 2.2], [2.2, 2.2], True),  # half forgotten, but no proxy is less likely
        ([6.0, 6.1], [5.9, 6.0], False),  # a model that knows neither
    ],
)
def test_which_proxies_are_known(forget, boundary, is_refused):
    rows = torch.tensor(forget), torch.tensor(boundary)
    if is_refused:
        with pytest.raises(DataError, match="or leave the boundary out"):
            refuse_known_proxies(*rows, "leave the boundary out")
    else:
        refuse_known_proxies(*rows, "leave the boundary out")


@pytest.mark.parametrize("options", [{}, {"learning_rate": 1e-4}, {"objective": "npo", "learning_rate": 1e-4}])
def test_forget_rows_that_the_model_never_learned_are_refused_before_the_first_step(
    make_model, tokenizer, config, options
):
    proxies = qa_rows(40, 50)
    trainer = trainer_with(
        proxies, make_model(), tokenizer, config, **{"verdict": True, "objective": "proxy_kl", **options}
    )
    before = weights_of(trainer)
    with pytest.raises(DataError) as error:
        trainer.train()
    assert re.fullmatch(
        r"Got forget rows that the model finds as unlikely \(probability 0\.00\d+\) as rows never seen \(0\.00\d+; "
        r"p = 0\.\d+\), but expected rows that the model has learned\. Check with `egup inspect` that they are written "
        r"as in its training, or leave them out\.",
        str(error.value),
    )
    assert trainer.state.global_step == 0
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(trainer).items())


def test_whoever_asks_for_no_verdict_and_names_the_learning_rate_may_train_on_them(make_model, tokenizer, config):
    trainer = trainer_with(qa_rows(40, 50), make_model(), tokenizer, config, verdict=False, learning_rate=1e-4)
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("forget", "unseen", "is_refused"),
    [
        ([3.0, 3.1, 3.2, 3.3], [3.0, 3.1, 3.2, 3.3], True),
        ([4.0, 4.1, 4.2, 4.3], [3.0, 3.1, 3.2, 3.3], True),  # they differ, but on the wrong side
        ([2.0, 2.1, 2.2, 2.3], [3.0, 3.1, 3.2, 3.3], False),
        ([2.0, 3.1, 2.2, 3.3], [3.0, 3.1, 3.2, 3.3], True),  # half of them known: 4 rows cannot tell, p = 0.77
        ([2.0, 2.1], [3.0, 3.1], False),  # too few for any test: the means decide
        ([5.0, 5.1], [4.0, 4.1], True),
        ([0.1, 0.2, 0.1, 0.2], [0.1, 0.2, 0.1, 0.2], False),  # known proxies, which have an error of their own
    ],
)
def test_which_rows_are_unknown(forget, unseen, is_refused):
    rows = torch.tensor(forget), torch.tensor(unseen)
    if is_refused:
        with pytest.raises(DataError, match="as unlikely"):
            refuse_unknown_rows(*rows)
    else:
        refuse_unknown_rows(*rows)
