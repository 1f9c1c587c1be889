"""Compilation, checkpointing, autocast and accumulation, in every combination: the same losses."""

from itertools import product

import pytest
import torch
from fixtures_trainer import logged

EVERYTHING = {"clreg_weight": 0.5, "inter_neighbors": 2, "optim": "sgd", "max_grad_norm": 0.0, "num_train_epochs": 1}
TOLERANCE = {"float32": 2e-5, "bf16": 0.03}
"""Of a loss. Rounding to bfloat16 is a part in 256."""


def losses(make_trainer, compiled, checkpointing, precision, accumulation):
    torch.compiler.reset()
    trainer = make_trainer(
        torch_compile=compiled,
        torch_compile_backend="eager" if compiled else None,
        gradient_checkpointing=checkpointing,
        bf16=precision == "bf16",
        per_device_train_batch_size=4 // accumulation,
        gradient_accumulation_steps=accumulation,
        **EVERYTHING,
    )
    trainer.train()
    assert (type(trainer.model_wrapped).__name__ == "OptimizedModule") is compiled
    return logged(trainer, "loss")


@pytest.fixture(scope="module")
def known():
    """The losses of a plain run, once there are any."""
    return {}


@pytest.mark.parametrize(
    ("compiled", "checkpointing", "precision", "accumulation"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if case[0] and case[2:] != ("bf16", 2) else [])
        for case in product([False, True], [False, True], ["float32", "bf16"], [1, 2])
    ],
)
def test_every_combination_has_the_same_losses(make_trainer, known, compiled, checkpointing, precision, accumulation):
    if not known:
        known["plain"] = losses(make_trainer, False, False, "float32", 1)
        assert len(known["plain"]) == 3
    found = losses(make_trainer, compiled, checkpointing, precision, accumulation)
    assert found == pytest.approx(known["plain"], rel=TOLERANCE[precision], abs=TOLERANCE[precision])
