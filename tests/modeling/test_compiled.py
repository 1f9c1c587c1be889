"""A compiled model is read as it is uncompiled: in one graph, whatever rows come after those it was compiled for."""

import numpy as np
import pytest
import torch

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import IGNORE_INDEX, TokenizedRow
from egup_trainer.modeling.forward import AnswerReader

SHAPES = [[(9, 4), (9, 6)], [(9, 2), (9, 7)], [(12, 2), (5, 1), (7, 3)], [(12, 6), (9, 1), (7, 3)]]
"""Of four batches: tokens and prompt tokens of each row. Two have the shape of the one before them."""


def batch_of(shape):
    draw = np.random.default_rng(sum(map(sum, shape)))
    rows = []
    for length, prompt in shape:
        ids = draw.integers(3, 60, length).astype(np.int32)
        rows.append(TokenizedRow(ids, np.where(np.arange(length) < prompt, IGNORE_INDEX, ids).astype(np.int32)))
    return RowCollator(None).pad(rows)


def read(model, called, batch):
    """Log-probabilities, features, and the gradient of their sum."""
    model.zero_grad()
    outputs = AnswerReader(model)(called, **batch)
    (outputs.token_logps.sum() + outputs.features.sum()).backward()
    return outputs.token_logps.detach(), outputs.features.detach(), [weight.grad for weight in model.parameters()]


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "gpt2"))]
)
def test_one_graph_reads_what_the_model_reads(name, make_model):
    torch.compiler.reset()
    model = make_model(name).eval()  # GPT-2 has dropout
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for shape in SHAPES:
        batch = batch_of(shape)
        torch.testing.assert_close(read(model, compiled, batch), read(model, model, batch), atol=2e-5, rtol=1e-4)
