"""The one forward pass against the plain way: whole logits, log-softmax, shift, mask."""

import copy
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.modeling.forward import AnswerReader, answer_positions, decoder_layers, layer_index

FAMILIES = ["llama", "qwen3", "gemma3", "gpt2"]
NUM_TOKENS = [5, 5, 1, 21, 0]  # of the rows in conftest


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got, expected):
    assert got.keys() == expected.keys()
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2  # else the comparison says nothing
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def token_weights(count):
    """Different for each token, so that a swap of two tokens shows."""
    return torch.linspace(-1, 2, count) / count


def all_hooks(model):
    return Counter(
        (name, kind)
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        for _ in getattr(module, kind)
    )


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
    batch = pad(rows)
    expected, expected_logits = plain_logps(model, batch)
    weights = token_weights(len(expected))
    expected_gradients = gradients(model, (expected * weights).sum())

    out = AnswerReader(model)(model, **batch, keep_logits=keep_logits)
    torch.testing.assert_close(out.token_logps, expected, atol=1e-5, rtol=1e-5)
    if keep_logits:
        torch.testing.assert_close(out.logits, expected_logits, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(model, (out.token_logps * weights).sum()), expected_gradients)
    if lora:
        assert all("lora_" in name for name in expected_gradients)
    assert out.num_tokens.tolist() == NUM_TOKENS
    assert out.token_rows.tolist() == [row for row, count in enumerate(NUM_TOKENS) for _ in range(count)]


@pytest.mark.parametrize(
    "options", [{"targets": ["q_proj", "lm_head"]}, {"targets": ["q_proj"], "modules_to_save": ["lm_head"]}]
)
def test_an_adapted_head_is_read_alike(options, lively, with_lora, rows, pad, plain_logps):
    model, batch = with_lora(lively(), **options), pad(rows)
    expected, _ = plain_logps(model, batch)
    weights = token_weights(len(expected))
    expected_gradients = gradients(model, (expected * weights).sum())
    assert any("lm_head" in name for name in expected_gradients)
    out = AnswerReader(model)(model, **batch)
    torch.testing.assert_close(out.token_logps, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(model, (out.token_logps * weights).sum()), expected_gradients)


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_trained_tokens_of_tied_embeddings_are_read_alike(family, lively, with_lora, rows, pad, plain_logps):
    """PEFT projects by the changed weight in a way of its own."""
    targets = {"gemma3": ["q_proj"], "gpt2": ["c_attn"]}[family]
    model, batch = with_lora(lively(family), targets=targets, trainable_token_indices=[5, 6]).eval(), pad(rows)
    expected, _ = plain_logps(model, batch)
    expected_gradients = gradients(model, expected.sum())
    assert any("trainable_tokens_delta" in name for name in expected_gradients)
    out = AnswerReader(model)(model, **batch)
    torch.testing.assert_close(out.token_logps, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(model, out.token_logps.sum()), expected_gradients)


def test_gemma_caps_its_logits_in_the_fast_path(lively, rows, pad):
    model = lively("gemma3")
    model.lm_head.weight.data.mul_(50)
    logits = AnswerReader(model)(model, **pad(rows), keep_logits=True).logits
    assert 4.5 < logits.abs().max() <= 5  # conftest's final_logit_softcapping


@pytest.mark.parametrize("family", FAMILIES)
def test_every_fresh_adapter_learns_under_checkpointing(family, lively, with_lora, checkpointed, rows, pad):
    model = checkpointed(with_lora(lively(family), trained=False))
    found = gradients(model, AnswerReader(model)(model, **pad(rows)).mean_nll.sum())
    adapters = [name for name, _ in model.named_parameters() if "lora_B" in name]
    assert len(adapters) >= 3 * 4
    assert [name for name in adapters if not found[name].any()] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_both_factors_learn_under_checkpointing_once_b_is_not_zero(family, lively, with_lora, checkpointed, rows, pad):
    model = checkpointed(with_lora(lively(family), trained=True))
    found = gradients(model, AnswerReader(model)(model, **pad(rows)).mean_nll.sum())
    adapters = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert [name for name in adapters if not found[name].any()] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_one_forward_and_a_head_that_sees_answers_only(family, lively, rows, pad):
    model, batch = lively(family), pad(rows)
    calls, widths = [], []
    model.base_model.register_forward_hook(lambda *_: calls.append(1))
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: widths.extend([args[0].shape[1], output.shape[1]]))
    reader = AnswerReader(model, padding_free=True)
    reader(model, **batch)
    trial = 5, [8, 8] * 3 + [14, 14] * 2  # two short rows with other ends, apart and in one line
    assert (len(calls[: trial[0]]), widths[: len(trial[1])]) == trial
    del calls[: trial[0]], widths[: len(trial[1])]
    assert (len(calls), widths) == (1, [sum(NUM_TOKENS), 1])  # what it reads, and what the model goes on with
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
    reader(model, **batch)
    assert kept_logits(model, reader, batch) == pytest.approx(0.5, abs=0.05)
    reader._transform = None
    assert kept_logits(model, reader, batch) == pytest.approx(plain, abs=0.05)


def test_a_model_that_treats_its_logits_in_another_way_is_read_the_plain_way(
    lively, rows, pad, plain_logps, monkeypatch
):
    model, batch = lively(), pad(rows)
    whole = model.forward

    def shifted(**options):
        outputs = whole(**options)
        outputs.logits = outputs.logits + torch.arange(outputs.logits.shape[-1]) / 50
        return outputs

    monkeypatch.setattr(model, "forward", shifted)
    expected, _ = plain_logps(model, batch)
    expected_gradients = gradients(model, expected.sum())
    reader = AnswerReader(model)
    for _ in range(2):
        out = reader(model, **batch)
        torch.testing.assert_close(out.token_logps, expected, atol=1e-5, rtol=1e-5)
        assert_same_gradients(gradients(model, out.token_logps.sum()), expected_gradients)


def test_the_output_embedding_is_left_as_it_was(lively, rows, pad):
    model, batch = lively(), pad(rows)
    head = model.get_output_embeddings()
    plain = type(head).forward.__get__(head)
    AnswerReader(model)(model, **batch)
    assert "forward" not in vars(head)
    head.forward = plain  # as libraries do that move weights between devices
    AnswerReader(model)(model, **batch)
    assert vars(head)["forward"] is plain


def plain_features(layer, model, batch):
    """Mean over answer tokens of what a layer puts out at these tokens themselves (not at those before them)."""
    seen = []
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(out[0] if type(out) is tuple else out))
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    labels, features = batch["labels"].clone(), []
    labels[:, 0] = -100
    for states, row_labels in zip(seen[0], labels, strict=True):
        chosen = states[row_labels != -100]
        features.append(chosen.mean(dim=0) if len(chosen) else states.new_zeros(states.shape[-1]))
    return torch.stack(features)


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_mean_state_at_answer_tokens(family, layer, lively, checkpointed, rows, pad):
    model, batch = lively(family), pad(rows)
    layers = model.transformer.h if family == "gpt2" else model.model.layers
    expected = plain_features(layers[layer], model, batch)
    directions = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3)) / 10
    expected_gradients = gradients(model, (expected * directions).sum())
    out = AnswerReader(model, layer)(checkpointed(model), **batch)
    torch.testing.assert_close(out.features, expected, atol=1e-5, rtol=1e-5)
    assert not out.features[4].any()
    assert out.features.dtype == torch.float32
    assert_same_gradients(gradients(model, (out.features * directions).sum()), expected_gradients)


def test_gradient_of_features_reaches_the_layers_below_only(lively, rows, pad):
    model = lively()
    found = gradients(model, AnswerReader(model, 1)(model, **pad(rows)).features.pow(2).sum())
    touched = {name for name, gradient in found.items() if gradient.any()}
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"} <= touched
    assert "model.layers.1.mlp.down_proj.weight" in touched
    assert not any(name.startswith(("model.layers.2", "lm_head", "model.norm")) for name in touched)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_company_do_not_matter(family, lively, rows, pad):
    model = lively(family).eval()
    reader = AnswerReader(model)
    together = reader(model, **pad(rows))
    wider = reader(model, **pad(rows, width=50))
    torch.testing.assert_close(wider.token_logps, together.token_logps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wider.features, together.features, atol=1e-5, rtol=1e-5)
    for place, row in enumerate(rows):
        alone = reader(model, **pad([row], width=41))
        torch.testing.assert_close(alone.sum_nll[0], together.sum_nll[place], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(alone.features[0], together.features[place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_batch_without_answers_is_finite_and_has_a_gradient(family, lora, lively, with_lora, rows, pad):
    model = with_lora(lively(family)) if lora else lively(family)
    out = AnswerReader(model)(model, **pad([rows[4], rows[4]]), keep_logits=True)
    assert out.mean_nll.tolist() == [0, 0]
    assert out.features.shape == (2, 32)
    assert out.logits.shape[0] == 0
    found = gradients(model, out.mean_nll.sum() + out.features.sum())
    assert found  # several processes need a backward pass on each
    assert not any(gradient.any() for gradient in found.values())
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_features_and_logits_come_only_if_asked_for(lively, rows, pad):
    model = lively()
    out = AnswerReader(model)(model, **pad(rows), with_features=False)
    assert out.features is None
    assert out.logits is None


def test_numbers_are_float32_for_a_bfloat16_model(lively, rows, pad):
    model = lively().bfloat16()
    out = AnswerReader(model)(model, **pad(rows), keep_logits=True)
    assert {out.token_logps.dtype, out.features.dtype, out.logits.dtype, out.num_tokens.dtype} == {torch.float32}


def test_hooks_are_gone_afterwards(lively, rows, pad):
    model, batch = lively(), pad(rows)
    reader, before = AnswerReader(model), all_hooks(model)
    reader(model, **batch, embedding_noise=torch.zeros(1, 30, 32))
    assert all_hooks(model) == before
    assert model(input_ids=batch["input_ids"]).logits.shape[:2] == (5, 30)


def test_hooks_are_gone_after_an_exception(lively, rows, pad):
    model, batch = lively(), pad(rows)
    reader, before = AnswerReader(model, padding_free=False), all_hooks(model)
    reader.try_out(model)

    def fail(**inputs):
        assert all_hooks(model) != before  # armed
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reader(fail, **batch, embedding_noise=torch.zeros(1, 30, 32))
    assert all_hooks(model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_moves_the_last_rows_only(family, lively, rows, pad):
    model, batch = lively(family).eval(), pad(rows[:4])
    reader = AnswerReader(model)
    noise = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(5))
    clean, noisy = reader(model, **batch), reader(model, **batch, embedding_noise=noise)
    torch.testing.assert_close(noisy.sum_nll[:2], clean.sum_nll[:2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(noisy.features[:2], clean.features[:2], atol=1e-5, rtol=1e-5)
    assert ((noisy.features[2:] - clean.features[2:]).norm(dim=1) > 0.1).all()
    silent = reader(model, **batch, embedding_noise=torch.zeros_like(noise))
    torch.testing.assert_close(silent.sum_nll, clean.sum_nll, atol=1e-5, rtol=1e-5)


def test_noise_is_added_to_the_embeddings_once(lively, rows, pad):
    model, batch = lively().eval(), pad(rows[:4])
    noise = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(5))
    embedded = model.model.embed_tokens(batch["input_ids"]).detach()
    embedded[2:] += noise
    logits = model(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits[:, :-1]
    expected = logits[batch["labels"][:, 1:] != -100]
    out = AnswerReader(model)(model, **batch, embedding_noise=noise, keep_logits=True)
    torch.testing.assert_close(out.logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("feature_layer", "index"),
    [(0.5, 4), (0.01, 0), (0.99, 7), (0.25, 2), (0, 0), (1.0, 1), (7, 7), (-1, 7), (-8, 0)],
)
def test_layer_index(feature_layer, index):
    assert layer_index(feature_layer, 8) == index


@pytest.mark.parametrize(("feature_layer", "shown"), [(8, "8"), (-9, "-9"), (1.5, "1.5"), (-0.5, "-0.5")])
def test_no_such_layer(feature_layer, shown):
    with pytest.raises(ConfigError) as caught:
        layer_index(feature_layer, 8)
    assert str(caught.value) == (
        f"got feature_layer={shown} for a model of 8 layers; "
        "expected a fraction between 0 and 1, or an index from -8 to 7; set --feature_layer"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_layer_that_is_no_number_is_refused(value):
    with pytest.raises(ConfigError, match=f"got feature_layer={value:g} for a model of 8 layers"):
        layer_index(value, 8)


def test_decoder_layers_of_each_family(lively, with_lora):
    for family in FAMILIES:
        model = lively(family)
        expected = model.transformer.h if family == "gpt2" else model.model.layers
        assert decoder_layers(model) is expected
        assert decoder_layers(with_lora(model)) is expected


def test_a_model_without_decoder_layers_is_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(2, 2)])
            self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=3, vocab_size=8))

        def forward(self, input_ids, **_):
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 8))

    with pytest.raises(ModelError) as caught:
        decoder_layers(Flat())
    assert str(caught.value) == (
        "got the model Flat without a list of 3 decoder layers; expected a decoder-only transformer; "
        "use a causal language model of transformers"
    )


def test_a_model_without_a_head_is_refused(make_model):
    with pytest.raises(ModelError) as caught:
        AnswerReader(make_model().model)
    assert str(caught.value) == (
        "got the model LlamaModel without an output embedding; expected a causal language model; "
        "load it with AutoModelForCausalLM"
    )


def test_reading_leaves_the_model_as_it_was(lively, rows, pad):
    model = lively()
    before = copy.deepcopy(model.state_dict())
    AnswerReader(model)(model, **pad(rows)).mean_nll.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
