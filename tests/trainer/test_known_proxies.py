"""Proxies that the model knows as well as the forget rows are refused before the first step."""

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import weights_of

from egup_trainer import EGUPTrainer
from egup_trainer.components.known_proxies import refuse_known_proxies
from egup_trainer.errors import DataError


def trainer_with(proxies, model, tokenizer, config, **options):
    rows = {"forget_dataset": qa_rows(0, 10), "retain_dataset": qa_rows(20, 26), "proxy_dataset": proxies}
    args = config(objective="grad_diff", max_steps=1, **options)
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
