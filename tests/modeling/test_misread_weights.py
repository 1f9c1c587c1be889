"""4-bit weights that bitsandbytes reads wrongly on a CPU are refused; those that it reads well are not."""

import pytest
import torch
from conftest import qa_rows
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from egup_trainer import UnlearnConfig, UnlearnTrainer
from egup_trainer.errors import ModelError
from egup_trainer.modeling import loading
from egup_trainer.modeling.loading import check_4bit_layers, load_model, misread_4bit_layer

functional = pytest.importorskip("bitsandbytes.functional")
QUANTISED = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
REFUSAL = (
    "got 4-bit weights of model.layers.0.mlp.down_proj with 96 inputs, which bitsandbytes reads wrongly on this CPU; "
    "expected layers whose inputs are multiples of 64, the weights that share a scale; "
    "load the model without 4 bits (leave out --load_in_4bit), or on a GPU"
)
read = functional.dequantize_4bit


def read_by_hand(codes, state):
    """NF4 by its definition: two codes a byte, the first one in its upper half, 64 weights a scale."""
    levels = functional.get_4bit_type("nf4", device="cpu")
    places = torch.stack([codes.flatten() >> 4, codes.flatten() & 15], dim=1).flatten().long()
    scales = state.absmax.repeat_interleave(state.blocksize)[: state.shape.numel()]
    return (levels[places][: state.shape.numel()] * scales).view(state.shape)


def read_rows_apart(codes, state):
    """The fault, on any machine: each row begins with a block of its own."""
    firsts = torch.arange(state.shape[0])[:, None] * (state.shape[1] // state.blocksize)
    blocks = firsts + torch.arange(state.shape[1]) // state.blocksize
    whole = read_by_hand(codes, state).flatten()
    scales = state.absmax.repeat_interleave(state.blocksize)[: len(whole)]
    return (whole / scales).view(state.shape) * state.absmax[blocks]


@pytest.fixture
def reading(monkeypatch):
    """reading(read_by_hand): bitsandbytes reads so."""

    def set_to(how):
        monkeypatch.setattr(functional, "dequantize_4bit", how)
        loading._gives_weights_back.cache_clear()

    yield set_to
    monkeypatch.undo()
    loading._gives_weights_back.cache_clear()


@pytest.fixture
def save(tokenizer, tmp_path):
    """save(96): folder of a model whose MLP is that wide; its other layers have 64 inputs."""

    def make(width: int) -> str:
        sizes = {"hidden_size": 64, "intermediate_size": width, "num_attention_heads": 4, "num_key_value_heads": 2}
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, **sizes)).save_pretrained(tmp_path)
        return str(tmp_path)

    return make


@pytest.mark.parametrize("inputs", [16, 24, 32, 48, 64, 96, 100, 128, 160, 192, 320])
def test_what_is_tried_is_what_the_weights_of_a_layer_meet(inputs):
    weights = torch.randn(64, inputs, generator=torch.Generator().manual_seed(0))
    codes, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    is_right = torch.allclose(read(codes, state), read_by_hand(codes, state))
    assert loading._gives_weights_back(inputs, 64, "nf4") == is_right
    assert is_right or inputs % 64  # what is refused on any machine can be avoided by multiples of 64


def test_weights_that_are_read_wrongly_are_far_from_what_they_were():
    weights = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    codes, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    right, wrong = ((how(codes, state) - weights).norm() / weights.norm() for how in (read_by_hand, read_rows_apart))
    assert right == pytest.approx(0.092, abs=0.003)
    assert wrong > 0.2
    if not loading._gives_weights_back(96, 64, "nf4"):
        torch.testing.assert_close(read(codes, state), read_rows_apart(codes, state))


def test_a_model_whose_weights_would_be_read_wrongly_is_not_loaded(save, reading):
    reading(read_rows_apart)
    with pytest.raises(ModelError) as error:
        load_model(save(96), quantization_config=QUANTISED)
    assert str(error.value) == REFUSAL


def test_nor_trained_where_it_was_loaded_elsewhere(save, reading, tokenizer, tmp_path):
    reading(read_by_hand)
    model = load_model(save(96), quantization_config=QUANTISED)
    reading(read_rows_apart)
    config = UnlearnConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    with pytest.raises(ModelError) as error:
        UnlearnTrainer(model, config, qa_rows(0, 2), qa_rows(5, 7), processing_class=tokenizer)
    assert str(error.value) == REFUSAL


@pytest.mark.parametrize("how", [read, read_by_hand, read_rows_apart], ids=["as it does", "right", "rows apart"])
def test_a_model_of_multiples_of_64_is_loaded_however_rows_are_read(how, save, reading):
    reading(how)
    model = load_model(save(192), quantization_config=QUANTISED)
    assert misread_4bit_layer(model) is None
    assert "Linear4bit" in {type(module).__name__ for module in model.modules()}


def test_other_widths_are_loaded_where_they_are_read_well_and_whole_weights_are_not_looked_at(save, reading):
    folder = save(96)
    reading(read_by_hand)
    assert misread_4bit_layer(load_model(folder, quantization_config=QUANTISED)) is None
    reading(read_rows_apart)
    check_4bit_layers(load_model(folder))
