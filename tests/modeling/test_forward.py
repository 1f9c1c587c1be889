"""The one forward pass compared with the plain way: full logits, log-softmax, shift, mask."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import IGNORE_INDEX, TokenizedRow
from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.modeling.forward import AnswerReader, answer_positions, decoder_layers, layer_index
from egup_trainer.modeling.memory.answer_logps import HeadReading, LogitTransform
from egup_trainer.modeling.outputs import AnswerOutputs
from modeling.conftest import assert_same_gradients, gradients

FAMILIES = ["llama", "qwen3", "gemma3", "gpt2"]
NUM_TOKENS = [5, 5, 1, 21, 0]  # of the rows in conftest


def token_weights(count):
    """Different for each token, so that a swap of two tokens shows."""
    return torch.linspace(-1, 2, count) / count


def layers_of(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def all_hooks(model):
    return Counter(
        (name, kind)
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        for _ in getattr(module, kind)
    )


def assert_read_the_plain_way(model, batch, plain_logps, keep_logits=False):
    """Log-probabilities, logits and all gradients equal those of full logits; returns the outputs and gradients."""
    expected, expected_logits = plain_logps(model, batch)
    weights = token_weights(len(expected))
    expected_gradients = gradients(model, (expected * weights).sum())
    out = AnswerReader(model)(model, **batch, keep_logits=keep_logits)
    torch.testing.assert_close(out.token_logps, expected, atol=1e-5, rtol=1e-5)
    if keep_logits:
        torch.testing.assert_close(out.logits, expected_logits, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(model, (out.token_logps * weights).sum()), expected_gradients)
    return out, expected_gradients


def test_positions_predict_the_token_after_them():
    labels = torch.tensor([[9, -100, 5, 6], [-100, 7, -100, 8]])
    positions, rows, tokens = answer_positions(labels)
    # Row 0 starts at flat position 0, row 1 at 4; the label at column 0 has no position before it.
    assert positions.tolist() == [1, 2, 4, 6]
    assert rows.tolist() == [0, 0, 1, 1]
    assert tokens.tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize("keep_logits", [False, True], ids=["", "with logits"])
@pytest.mark.parametrize("checkpoint", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", [*FAMILIES, "granite", "cohere"])
def test_logps_and_all_gradients_equal_the_plain_way(
    family, lora, checkpoint, keep_logits, lively, with_lora, checkpointed, rows, pad, plain_logps
):
    model = with_lora(lively(family)) if lora else lively(family)
    if checkpoint:
        checkpointed(model)
    out, expected_gradients = assert_read_the_plain_way(model, pad(rows), plain_logps, keep_logits)
    assert not lora or all("lora_" in name for name in expected_gradients)
    assert out.num_tokens.tolist() == NUM_TOKENS
    assert out.token_rows.tolist() == [row for row, count in enumerate(NUM_TOKENS) for _ in range(count)]


@pytest.mark.parametrize(
    ("family", "trained", "options"),
    [
        ("llama", "lm_head", {"targets": ["q_proj", "lm_head"]}),
        ("llama", "lm_head", {"targets": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("gemma3", "trainable_tokens_delta", {"targets": ["q_proj"], "trainable_token_indices": [5, 6]}),
        ("gpt2", "trainable_tokens_delta", {"targets": ["c_attn"], "trainable_token_indices": [5, 6]}),
    ],
)
def test_adapted_embeddings_are_read_the_plain_way(family, trained, options, lively, with_lora, rows, pad, plain_logps):
    model = with_lora(lively(family), **options).eval()
    _, expected_gradients = assert_read_the_plain_way(model, pad(rows), plain_logps)
    assert any(trained in name for name in expected_gradients)


def test_gemma_caps_its_logits_in_the_fast_path(lively, rows, pad):
    model = lively("gemma3")
    model.lm_head.weight.data.mul_(50)
    logits = AnswerReader(model)(model, **pad(rows), keep_logits=True).logits
    assert 4.5 < logits.abs().max() <= 5  # final_logit_softcapping in conftest


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_learns_under_checkpointing(family, trained, lively, with_lora, checkpointed, rows, pad):
    model = checkpointed(with_lora(lively(family), trained=trained))
    found = gradients(model, AnswerReader(model)(model, **pad(rows)).mean_nll.sum())
    factors = [name for name, _ in model.named_parameters() if ("lora_" if trained else "lora_B") in name]
    assert len(factors) >= 3 * 4
    assert [name for name in factors if not found[name].any()] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_one_forward_pass_and_a_head_that_sees_answers_only(family, lively, rows, pad):
    model, batch = lively(family), pad(rows)
    calls, widths = [], []
    model.base_model.register_forward_hook(lambda *_: calls.append(1))
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: widths.extend([args[0].shape[1], output.shape[1]]))
    reader = AnswerReader(model, padding_free=True)
    reader(model, **batch)
    trial = 5, [8, 8] * 3 + [14, 14] * 2  # passes over two short rows, padded and packed
    assert (len(calls[: trial[0]]), widths[: len(trial[1])]) == trial
    del calls[: trial[0]], widths[: len(trial[1])]
    assert (len(calls), widths) == (1, [sum(NUM_TOKENS), 1])  # what it reads, and what the model continues with
    reader(model, **batch, keep_logits=True)
    assert widths[2:] == [sum(NUM_TOKENS)] * 2


def kept_logits(model, reader, batch):
    """How many (tokens x vocabulary) tensors, in float32, a forward pass keeps for its backward pass."""
    vocabulary = model.config.vocab_size
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if tensor.dim() > 1 and tensor.shape[-1] == vocabulary and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        values = reader(model, **batch).token_logps
    values.sum().backward()
    return sum(kept.values()) / (4 * sum(NUM_TOKENS) * vocabulary)


@pytest.mark.parametrize(("family", "plain"), [("llama", 1), ("gemma3", 1.5)])
def test_the_logits_are_kept_once_in_their_own_type(family, plain, lively, rows, pad):
    model, batch = lively(family).bfloat16(), pad(rows)
    reader = AnswerReader(model)
    out = reader(model, **batch)
    assert {out.token_logps.dtype, out.features.dtype, out.num_tokens.dtype} == {torch.float32}
    assert kept_logits(model, reader, batch) == pytest.approx(0.5, abs=0.05)
    reader._transform = None
    assert kept_logits(model, reader, batch) == pytest.approx(plain, abs=0.05)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits + torch.arange(logits.shape[-1]) / 50,
        lambda logits: 30 * torch.tanh(logits / 30),  # which is nearly nothing for logits as small as the first token's
    ],
    ids=["shift", "soft cap"],
)
def test_a_model_with_another_transform_of_its_logits_is_read_the_plain_way(
    change, lively, rows, pad, plain_logps, monkeypatch
):
    model, batch = lively(), pad(rows)
    whole = model.forward

    def changed(**options):
        outputs = whole(**options)
        outputs.logits = change(outputs.logits)
        return outputs

    monkeypatch.setattr(model, "forward", changed)
    expected, _ = plain_logps(model, batch)
    expected_gradients = gradients(model, expected.sum())
    reader = AnswerReader(model)
    for _ in range(2):
        out = reader(model, **batch)
        torch.testing.assert_close(out.token_logps, expected, atol=1e-5, rtol=1e-5)
        assert_same_gradients(gradients(model, out.token_logps.sum()), expected_gradients)


# Features and hidden states


def plain_states(layer, model, batch):
    """What a layer returns at answer tokens themselves, not at the tokens before them, and the row of each."""
    seen = []
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(out[0] if type(out) is tuple else out))
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    scored = batch["labels"] != -100
    scored[:, 0] = False  # nothing predicts the first token
    return seen[0][scored], scored.nonzero()[:, 0]


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_means_of_hidden_states_at_answer_tokens(family, layer, lively, checkpointed, rows, pad):
    model, batch = lively(family), pad(rows)
    states, owners = plain_states(layers_of(model)[layer], model, batch)
    means = torch.stack([states[owners == row].sum(dim=0) / max(count, 1) for row, count in enumerate(NUM_TOKENS)])
    directions = torch.randn(means.shape, generator=torch.Generator().manual_seed(3)) / 10
    expected_gradients = gradients(model, (means * directions).sum())
    reader = AnswerReader(model, feature_layer=layer, hidden_layer=layer)
    out = reader(checkpointed(model), **batch, with_hidden=True)
    torch.testing.assert_close(out.features, means, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.hidden, states, atol=1e-5, rtol=1e-5)
    assert not out.features[4].any()
    assert out.hidden.requires_grad
    assert_same_gradients(gradients(model, (out.features * directions).sum()), expected_gradients)


def test_gradient_of_features_reaches_the_layers_below_only(lively, rows, pad):
    model = lively()
    found = gradients(model, AnswerReader(model, 1)(model, **pad(rows)).features.pow(2).sum())
    touched = {name for name, gradient in found.items() if gradient.any()}
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"} <= touched
    assert "model.layers.1.mlp.down_proj.weight" in touched
    assert not any(name.startswith(("model.layers.2", "lm_head", "model.norm")) for name in touched)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_other_rows_do_not_matter(family, lively, rows, pad):
    model = lively(family).eval()
    reader = AnswerReader(model)
    together = reader(model, **pad(rows), with_hidden=True)
    wider = reader(model, **pad(rows, width=50), with_hidden=True)
    for name in ("token_logps", "features", "hidden"):
        torch.testing.assert_close(getattr(wider, name), getattr(together, name), atol=1e-5, rtol=1e-5)
    for index, row in enumerate(rows):
        alone = reader(model, **pad([row], width=41))
        torch.testing.assert_close(alone.sum_nll[0], together.sum_nll[index], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(alone.features[0], together.features[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_without_answers_is_finite_and_has_a_gradient(family, lora, lively, with_lora, rows, pad):
    model = with_lora(lively(family)) if lora else lively(family)
    for keep_logits in (False, True):
        out = AnswerReader(model)(model, **pad([rows[4], rows[4]]), keep_logits=keep_logits)
        assert out.mean_nll.tolist() == [0, 0]
        assert out.features.shape == (2, 32)
        found = gradients(model, out.mean_nll.sum() + out.features.sum())
        assert found  # every process of several needs a backward pass
        assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_added_once_to_the_embeddings_of_the_last_rows(family, lively, rows, pad):
    model, batch = lively(family).eval(), pad(rows[:4])
    noise = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(5))
    reader = AnswerReader(model)
    clean, noisy = (reader(model, **batch, embedding_noise=each) for each in (None, noise))
    torch.testing.assert_close(noisy.features[:2], clean.features[:2], atol=1e-5, rtol=1e-5)
    assert ((noisy.features[2:] - clean.features[2:]).norm(dim=1) > 0.1).all()
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: torch.cat([out[:2], out[2:] + noise])
    )
    plain = AnswerReader(model, padding_free=False)
    plain._is_tried = True
    expected = plain(model, **batch)
    handle.remove()
    torch.testing.assert_close(noisy.token_logps, expected.token_logps, atol=1e-5, rtol=1e-5)


# Traces


def test_states_of_a_layer_on_another_device_come_back_to_the_rows(lively):
    """As a `device_map` over several GPUs puts them; with fake tensors, for which no GPU is needed."""
    reader = AnswerReader(lively("llama"))
    with FakeTensorMode():
        states, positions = torch.zeros(2, 8, 4, device="cuda:1"), torch.zeros(3, dtype=torch.long, device="cuda:0")
        assert reader._at([states], positions, 8).device == positions.device
        reading = HeadReading(positions, LogitTransform())
        reading._logps = torch.zeros(3, device="cuda:1")
        assert reading.logps(torch.zeros(1, 5, device="cuda:0")).device == positions.device


def test_a_call_leaves_hooks_forward_and_weights_as_they_were(lively, rows, pad):
    model, batch = lively(), pad(rows)
    reader, hooks = AnswerReader(model, padding_free=False), all_hooks(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    reader(model, **batch, embedding_noise=torch.zeros(1, 30, 32)).mean_nll.sum().backward()
    assert all_hooks(model) == hooks
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())

    def fail(**inputs):
        assert all_hooks(model) != hooks
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reader(fail, **batch, embedding_noise=torch.zeros(1, 30, 32))
    assert all_hooks(model) == hooks
    head = model.get_output_embeddings()
    assert "forward" not in vars(head)
    plain = head.forward = type(head).forward.__get__(head)  # as libraries do that move weights between devices
    reader(model, **batch)
    assert vars(head)["forward"] is plain


SHAPES = [[(9, 4), (9, 6)], [(9, 2), (9, 7)], [(12, 2), (5, 1), (7, 3)], [(12, 6), (9, 1), (7, 3)]]
"""Tokens and prompt tokens of each row of four batches. The second and fourth have the shape of the one before."""


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(family, marks=pytest.mark.slow) for family in ("gemma3", "gpt2"))]
)
def test_a_compiled_model_is_read_in_one_graph(family, make_model):
    def batch_of(shape):
        generator, rows = np.random.default_rng(sum(map(sum, shape))), []
        for length, prompt in shape:
            ids = generator.integers(3, 60, length).astype(np.int32)
            rows.append(TokenizedRow(ids, np.where(np.arange(length) < prompt, IGNORE_INDEX, ids).astype(np.int32)))
        return RowCollator(None).pad(rows)

    def read(called, batch):
        out = AnswerReader(model)(called, **batch)
        return out.token_logps, out.features, gradients(model, out.token_logps.sum() + out.features.sum())

    torch.compiler.reset()
    model = make_model(family).eval()  # GPT-2 has dropout
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for shape in SHAPES:
        batch = batch_of(shape)
        torch.testing.assert_close(read(compiled, batch), read(model, batch), atol=2e-5, rtol=1e-4)


# Layers


@pytest.mark.parametrize(
    ("feature_layer", "index"),
    [(0.5, 4), (0.01, 0), (0.99, 7), (0.25, 2), (0, 0), (1.0, 1), (7, 7), (-1, 7), (-8, 0)],
)
def test_layer_index(feature_layer, index):
    assert layer_index(feature_layer, 8) == index


@pytest.mark.parametrize("layer", [8, -9, 1.5, -0.5, float("nan"), float("inf"), float("-inf")])
def test_no_such_layer(layer):
    with pytest.raises(ConfigError) as caught:
        layer_index(layer, 8, "rmu_layer")
    assert caught.value.got == f"rmu_layer={layer:g} for a model of 8 layers"
    assert "from -8 to 7" in caught.value.expected


def test_layers_that_return_lists_are_read(rows, pad, plain_logps):
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model, batch = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=256, **sizes)).eval(), pad(rows)
    out = AnswerReader(model, -1)(model, **batch)
    states = model.transformer(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(out.features[2], states[2, 6])
    torch.testing.assert_close(out.token_logps, plain_logps(model, batch)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_layers_of_each_family(family, lively, with_lora):
    model = lively(family)
    expected = layers_of(model)
    assert decoder_layers(model) is expected
    assert decoder_layers(with_lora(model)) is expected


def test_models_without_layers_or_a_head_are_refused(make_model):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(2, 2)])
            self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=3, vocab_size=8))

        def forward(self, input_ids, **_):
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 8))

    with pytest.raises(ModelError, match="Flat without a list of 3 decoder layers"):
        decoder_layers(Flat())
    with pytest.raises(ModelError, match="LlamaModel without an output embedding"):
        AnswerReader(make_model().model)


# Outputs


def three_rows():
    """Row 0 with tokens of -1 and -3, row 1 with none, row 2 with one of -5."""
    logps = torch.tensor([-1.0, -3.0, -5.0], requires_grad=True)
    return AnswerOutputs(logps, torch.tensor([0, 0, 2]), torch.tensor([2.0, 0.0, 1.0]))


def test_sums_means_and_parts_by_hand():
    out = three_rows()
    assert out.sum_nll.tolist() == [4, 0, 5]
    assert out.mean_nll.tolist() == [2, 0, 5]
    out.mean_nll.sum().backward()
    assert out.token_logps.grad.tolist() == [-0.5, -0.5, -1]
    out = three_rows()
    first, second = out.split([1, 2])
    assert (first.features, second.logits) == (None, None)
    assert (second.token_rows.tolist(), second.sum_nll.tolist()) == ([1], [0, 5])
    second.sum_nll.sum().backward()
    assert out.token_logps.grad.tolist() == [0, 0, -1]


@pytest.mark.parametrize("sizes", [[2, 3], [1, 3, 1], [5], [0, 5]])
def test_parts_equal_separate_readings(sizes, lively, rows, pad):
    model = lively().eval()
    reader, options = AnswerReader(model), {"keep_logits": True, "with_hidden": True}
    parts = reader(model, **pad(rows), **options).split(sizes)
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        if size:
            alone = reader(model, **pad(rows[start : start + size], width=30), **options)
            names = ("token_logps", "token_rows", "num_tokens", "features", "logits", "token_ids", "hidden")
            for name in names:
                torch.testing.assert_close(getattr(part, name), getattr(alone, name), atol=1e-5, rtol=1e-5)
        else:
            assert part.sum_nll.shape == (0,)
        start += size
