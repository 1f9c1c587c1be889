"""A compiled model reads rows of all lengths with a few graphs, and finds the same."""

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


def test_lengths_share_graphs_and_log_probabilities_are_those_of_the_model(make_model):
    model = make_model()
    plain, reader = AnswerReader(model, padding_free=False), AnswerReader(model, padding_free=False)
    expected = [plain(model, **batch(length)) for length in LENGTHS]
    config = torch._dynamo.config
    with config.patch(force_nn_module_property_static_shapes=True, recompile_limit=config.recompile_limit):
        compile_for_all_lengths()
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(model, backend="eager")
        found = [reader(compiled, **batch(length)) for length in LENGTHS]
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.compiler.reset()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.token_logps, theirs.token_logps)
        torch.testing.assert_close(ours.features, theirs.features)
    assert 0 < graphs <= 4
