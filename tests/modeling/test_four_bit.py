"""4-bit weights on the CPU: adapters on them learn, misread weights are refused, and nothing is repacked."""

import pytest
import torch
from conftest import qa_rows
from peft import LoraConfig
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from egup_trainer import UnlearnConfig, UnlearnTrainer
from egup_trainer.errors import ModelError
from egup_trainer.modeling import loading
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import (
    add_adapter,
    check_4bit_layers,
    keep_gradients_of_4bit_layers,
    load_model,
    misread_4bit_layer,
)
from egup_trainer.modeling.reference import Need, Reference, ReferenceKind, choose_reference

bitsandbytes = pytest.importorskip("bitsandbytes")
functional = bitsandbytes.functional
LOGITS = frozenset({Need.LOGITS})
QUANTIZED = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32,
)
read = functional.dequantize_4bit


@pytest.fixture
def save(tokenizer, tmp_path):
    """save(width=128): folder of a model with an MLP of that width; its other layers have 64 inputs."""

    def make(width: int = 128) -> str:
        sizes = {"hidden_size": 64, "intermediate_size": width, "num_attention_heads": 4, "num_key_value_heads": 2}
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, initializer_range=0.1, **sizes)
        LlamaForCausalLM(config).save_pretrained(tmp_path)
        return str(tmp_path)

    return make


@pytest.fixture
def model(save):
    base = load_model(save(), quantization_config=QUANTIZED)
    model = add_adapter(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    keep_gradients_of_4bit_layers(model)
    return model.train()


def train_b(model):
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))


def gradients(model, logps):
    model.zero_grad()
    (logps * torch.linspace(-1, 2, len(logps))).mean().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("checkpoint", [False, True], ids=["kept", "checkpointed"])
def test_fast_path_equals_the_plain_way_and_only_adapters_learn(
    checkpoint, model, checkpointed, rows, pad, plain_logps
):
    assert isinstance(model.base_model.model.model.layers[0].mlp.up_proj.base_layer, bitsandbytes.nn.Linear4bit)
    train_b(model)
    if checkpoint:
        checkpointed(model)
    batch = pad(rows)
    expected, _ = plain_logps(model, batch)
    out = AnswerReader(model)(model, **batch)
    torch.testing.assert_close(out.token_logps, expected, atol=1e-5, rtol=1e-5)
    plain, fast = gradients(model, expected), gradients(model, out.token_logps)
    assert set(fast) == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert all(gradient.any() for gradient in fast.values())
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)


def test_the_reference_has_the_same_four_bits(model, rows, pad, plain_logps):
    batch = pad(rows)
    with torch.no_grad():
        _, before = plain_logps(model, batch)
    kind = choose_reference(LOGITS, model)
    assert kind is ReferenceKind.ADAPTER_OFF
    reference = Reference(kind, model, AnswerReader(model))
    train_b(model)
    torch.testing.assert_close(reference.read(model, **batch, needs=LOGITS).logits, before, atol=1e-5, rtol=1e-5)


def test_a_pass_in_evaluation_mode_leaves_the_gradients_right(model, rows, pad):
    """Some CPUs repack the weights for inference in such a pass; the kernel for them has no backward pass."""
    train_b(model)
    reader, batch = AnswerReader(model), pad(rows)
    before = gradients(model, reader(model, **batch).token_logps)
    with torch.no_grad():
        reader(model.eval(), **batch)
    after = gradients(model, reader(model.train(), **batch).token_logps)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_that_are_repacked_already_are_refused(model):
    layer = model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match="repacked"):
        keep_gradients_of_4bit_layers(model)


# Misread weights


def read_by_hand(codes, state):
    """NF4 by its definition: two codes per byte, the first one in the upper half, 64 weights per scale."""
    levels = functional.get_4bit_type("nf4", device="cpu")
    indices = torch.stack([codes.flatten() >> 4, codes.flatten() & 15], dim=1).flatten().long()
    scales = state.absmax.repeat_interleave(state.blocksize)[: state.shape.numel()]
    return (levels[indices][: state.shape.numel()] * scales).view(state.shape)


def read_rows_apart(codes, state):
    """The fault, on any machine: each row begins with a new block."""
    firsts = torch.arange(state.shape[0])[:, None] * (state.shape[1] // state.blocksize)
    blocks = firsts + torch.arange(state.shape[1]) // state.blocksize
    whole = read_by_hand(codes, state).flatten()
    scales = state.absmax.repeat_interleave(state.blocksize)[: len(whole)]
    return (whole / scales).view(state.shape) * state.absmax[blocks]


@pytest.fixture
def reading(monkeypatch):
    """reading(read_by_hand): makes bitsandbytes read like that."""

    def set_to(how):
        monkeypatch.setattr(functional, "dequantize_4bit", how)
        loading._gives_weights_back.cache_clear()

    yield set_to
    monkeypatch.undo()
    loading._gives_weights_back.cache_clear()


PLAIN = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


@pytest.mark.parametrize("inputs", [16, 24, 48, 64, 96, 100, 128, 160, 192])
def test_the_trial_finds_what_happens_to_the_weights_of_a_layer(inputs):
    weights = torch.randn(64, inputs, generator=torch.Generator().manual_seed(0))
    codes, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    is_right = torch.allclose(read(codes, state), read_by_hand(codes, state))
    assert loading._gives_weights_back(inputs, 64, "nf4") == is_right
    assert is_right or inputs % 64  # multiples of 64 are right on any machine
    if not is_right:
        torch.testing.assert_close(read(codes, state), read_rows_apart(codes, state))
    assert (read_by_hand(codes, state) - weights).norm() / weights.norm() == pytest.approx(0.09, abs=0.02)


def test_misread_weights_are_refused_when_loaded_and_when_trained(save, reading, tokenizer, tmp_path):
    reading(read_by_hand)
    model = load_model(save(96), quantization_config=PLAIN)
    assert misread_4bit_layer(model) is None
    reading(read_rows_apart)
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path), quantization_config=PLAIN)
    assert "model.layers.0.mlp.down_proj with 96 inputs" in caught.value.got
    config = UnlearnConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    with pytest.raises(ModelError, match="down_proj with 96 inputs"):
        UnlearnTrainer(model, config, qa_rows(0, 2), qa_rows(5, 7), processing_class=tokenizer)
    check_4bit_layers(load_model(str(tmp_path)))  # weights that are not quantized are not tried


@pytest.mark.parametrize("how", [read, read_by_hand, read_rows_apart], ids=["as it does", "right", "rows apart"])
def test_a_model_of_multiples_of_64_is_always_loaded(how, save, reading):
    reading(how)
    model = load_model(save(192), quantization_config=PLAIN)
    assert misread_4bit_layer(model) is None
    assert "Linear4bit" in {type(module).__name__ for module in model.modules()}
