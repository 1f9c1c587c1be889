"""A compiled model reads rows of all lengths with a few graphs, and finds the same."""

from functools import partial

import pytest
import torch

from egup_trainer.modeling.compilation import compile_for_all_lengths
from egup_trainer.modeling.forward import AnswerReader

LENGTHS = range(9, 21)
"""More than the 8 graphs after which PyTorch gives up."""


def batch(length):
    ids = torch.arange(2 * length).view(2, length) % 300
    labels = ids.clone()
    labels[:, : length // 2] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.fixture
def compiled():
    """compiled(model): the model as a run compiles it."""
    config = torch._dynamo.config
    changed = ("force_nn_module_property_static_shapes", "skip_nnmodule_hook_guards", "recompile_limit")
    with config.patch({name: getattr(config, name) for name in changed}):
        compile_for_all_lengths()
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        yield partial(torch.compile, backend="eager")
    torch.compiler.reset()


def test_lengths_share_graphs_and_log_probabilities_are_those_of_the_model(make_model, compiled):
    model = make_model()
    plain, reader = AnswerReader(model, padding_free=False), AnswerReader(model, padding_free=False)
    expected = [plain(model, **batch(length)) for length in LENGTHS]
    whole = compiled(model)
    found = [reader(whole, **batch(length)) for length in LENGTHS]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.token_logps, theirs.token_logps)
        torch.testing.assert_close(ours.features, theirs.features)
    assert 0 < graphs <= 4


def test_what_an_earlier_reading_left_out_is_read(make_model, compiled):
    model = make_model()
    reader, whole = AnswerReader(model, padding_free=False), compiled(model)
    expected = reader(model, **batch(9), with_hidden=True)
    for options in ({"with_features": False}, {"keep_logits": True}, {"with_hidden": True}):
        found = reader(whole, **batch(9), **options)
        torch.testing.assert_close(found.token_logps, expected.token_logps)
    torch.testing.assert_close(found.features, expected.features)
    torch.testing.assert_close(found.hidden, expected.hidden)
