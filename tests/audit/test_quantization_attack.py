"""Copies in fewer bits: that they are such copies, that the model stays, and that no number is made up."""

import pytest
import torch
from conftest import make_tiny_model
from fixtures_audit import FORGET, HOLDOUT, RETAIN, assert_same_weights, dataset, target, taught, weights_of, wide_model
from fixtures_evaluation import with_adapter
from transformers import BitsAndBytesConfig

from egup_trainer.audit import quantization as module
from egup_trainer.audit.attack import Finding
from egup_trainer.audit.quantization import Bits, quantized_copy
from egup_trainer.audit.relearning import relearning_curve
from egup_trainer.data.collator import RowCollator
from egup_trainer.modeling import loading
from egup_trainer.modeling.gptq import gptq_copy, grid_of
from egup_trainer.modeling.loading import load_model

bitsandbytes = pytest.importorskip("bitsandbytes")
KINDS = {Bits.FOUR: bitsandbytes.nn.Linear4bit, Bits.EIGHT: bitsandbytes.nn.Linear8bitLt}
IDS = torch.arange(5, 30)[None]


@torch.no_grad()
def logits_of(model):
    return model(input_ids=IDS).logits


def attack(model, tokenizer):
    return module.quantization(target(model, tokenizer))


@pytest.fixture(scope="module")
def knowing(tokenizer):
    return taught(tokenizer, [*FORGET, *RETAIN], model=wide_model(tokenizer))


@pytest.mark.parametrize("bits", KINDS)
def test_linear_layers_are_quantized_and_the_answer_is_near(bits, knowing):
    before = weights_of(knowing)
    copy = quantized_copy(knowing, bits)
    assert isinstance(copy.model.layers[0].mlp.up_proj, KINDS[bits])
    away = (logits_of(copy) - logits_of(knowing)).abs().max() / logits_of(knowing).abs().max()
    assert 0 < away < {Bits.FOUR: 1, Bits.EIGHT: 0.1}[bits]
    assert_same_weights(knowing, before)


def test_four_bits_are_nf4_in_blocks_of_64(knowing):
    copy = quantized_copy(knowing, Bits.FOUR)
    layer, weight = copy.model.layers[1].mlp.up_proj, knowing.model.layers[1].mlp.up_proj.weight.detach()
    found = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    levels = bitsandbytes.functional.get_4bit_type("nf4", device="cpu")
    blocks = weight.flatten().reshape(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    nearest = levels[((blocks / largest)[..., None] - levels).abs().argmin(dim=-1)] * largest
    torch.testing.assert_close(found.flatten(), nearest.flatten(), atol=1e-5, rtol=1e-4)


def test_an_adapter_is_merged_before(tokenizer):
    model = with_adapter(make_tiny_model(tokenizer))
    copy = quantized_copy(model, Bits.EIGHT)
    assert (logits_of(copy) - logits_of(model)).abs().max() < 0.1 * logits_of(model).abs().max()
    assert model.peft_config.keys() == {"default"}


def test_numbers_are_those_of_the_copies(knowing, tokenizer):
    found = attack(knowing, tokenizer)
    assert list(found.metrics)[:4] == [
        "given_forget_probability",
        "given_forget_extraction_strength",
        "given_retain_probability",
        "given_retain_extraction_strength",
    ]
    assert len(found.metrics) == 20
    for bits, model in ((Bits.GIVEN, knowing), (Bits.FOUR, quantized_copy(knowing, Bits.FOUR))):
        losses = [
            model(
                input_ids=torch.from_numpy(row.input_ids).long()[None],
                labels=torch.from_numpy(row.labels).long()[None],
            ).loss
            for row in dataset(RETAIN, tokenizer).rows
        ]
        value = found.metrics[f"{bits.value}_retain_probability"].value
        assert value == pytest.approx(torch.stack(losses).neg().exp().mean().item(), rel=1e-4)
    assert found.metrics["4bit_forget_probability"].higher_is_better is None
    assert found.metrics["4bit_retain_probability"].higher_is_better is True


def test_a_kind_that_cannot_run_has_a_reason_and_no_number(knowing, tokenizer, monkeypatch):
    real = quantized_copy

    def refuse(model, bits):
        if bits is Bits.EIGHT:
            raise RuntimeError("no kernel\nfor this machine")
        return real(model, bits)

    monkeypatch.setattr(module, "quantized_copy", refuse)
    found = attack(knowing, tokenizer).metrics
    assert (found["8bit_forget_probability"].value, found["8bit_forget_probability"].reason) == (
        None,
        "not run: RuntimeError: no kernel",
    )
    assert found["4bit_forget_probability"].value is not None


def test_four_bits_are_not_tried_where_they_would_be_read_wrongly(make_model, tokenizer, monkeypatch):
    monkeypatch.setattr(loading, "_gives_weights_back", lambda inputs, block, kind: inputs % block == 0)
    found = attack(make_model(), tokenizer).metrics
    assert all("q_proj has 32" in metric.reason for name, metric in found.items() if name.startswith("4bit"))
    assert all(metric.value is not None for name, metric in found.items() if not name.startswith("4bit"))


def test_gptq_is_calibrated_on_retain_rows_and_leaves_the_model(knowing, tokenizer):
    before = weights_of(knowing)
    found = attack(knowing, tokenizer).metrics
    rows = [torch.from_numpy(row.input_ids) for row in dataset(RETAIN, tokenizer).rows]
    rounded = gptq_copy(knowing, rows)
    given = target(knowing, tokenizer)
    expected = given.score(given.row_set("forget"), model=rounded)["forget"].samples
    probabilities = [row.answers[0].probability for row in expected.values()]
    assert found["gptq_forget_probability"].value == pytest.approx(sum(probabilities) / len(FORGET), rel=1e-4)
    assert_same_weights(knowing, before)


def test_a_change_of_less_than_half_a_grid_step_is_undone(knowing, tokenizer):
    """Weights at the points of their grids, moved off the forget rows: rounding to the nearest moves them back.

    GPTQ keeps what the weights do to the calibration rows, whose inputs are those of the forget rows here.
    """
    hidden = gptq_copy(knowing, [])
    at_first = attack(hidden, tokenizer).metrics["given_forget_probability"].value
    batch = RowCollator(tokenizer).pad(dataset(FORGET, tokenizer).rows)
    (-hidden(**batch).loss).backward()
    with torch.no_grad():
        for part in hidden.model.layers.modules():
            if isinstance(part, torch.nn.Linear):
                low, high = part.weight.aminmax(dim=1, keepdim=True)
                is_inside = (part.weight > low) & (part.weight < high)  # the grid's ends, and so the grid, stay
                part.weight -= 0.45 * grid_of(part.weight)[0] * part.weight.grad.sign() * is_inside
    hidden.zero_grad()
    found = attack(hidden, tokenizer).metrics
    given, nearest, gptq = (found[f"{name}_forget_probability"].value for name in ("given", "nearest", "gptq"))
    assert nearest == pytest.approx(at_first, rel=1e-3)
    assert nearest > 0.8 > 0.1 > given
    assert given / 2 < gptq < 2 * given


def test_a_model_without_such_layers_is_said_to_have_none(knowing, monkeypatch):
    monkeypatch.setattr(type(knowing), "from_pretrained", lambda folder, **options: knowing)
    with pytest.raises(RuntimeError, match="no layer of the model can be quantized"):
        quantized_copy(knowing, Bits.FOUR)


@pytest.fixture
def four_bit(knowing, tmp_path):
    knowing.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return load_model(str(tmp_path), quantization_config=config)


def test_quantized_weights_are_not_quantized_again(four_bit, tokenizer):
    assert attack(four_bit, tokenizer) == Finding(reason="the model's weights are quantized already")


def test_a_fresh_adapter_learns_in_the_place_of_quantized_weights(four_bit, tokenizer):
    before = {name: weight.clone() for name, weight in four_bit.named_parameters()}
    few, others = dataset(HOLDOUT[:4], tokenizer), dataset(FORGET, tokenizer)
    curves = [relearning_curve(four_bit, tokenizer, few, few, 8, 1e-2, 4, seed, 8) for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]
    assert curves[0][0] == curves[2][0]  # a fresh adapter does nothing yet
    assert curves[0][-1][1] > curves[0][0][1]
    assert relearning_curve(four_bit, tokenizer, few, others, 1, 1e-4, 4, 0, 1)[0][1] > 0.5
    after = dict(four_bit.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
