"""Bytes by hand, and as the libraries hold them."""

import pytest
import torch

from egup_trainer.planning.sizes import (
    bytes_of_4bit,
    bytes_of_8bit,
    bytes_of_features,
    bytes_of_optimizer,
    bytes_of_scan,
    item_size,
)


def held_in_4bit(layer) -> int:
    state = layer.weight.quant_state
    tensors = [layer.weight, state.absmax, state.code]
    if state.nested:
        tensors += [state.state2.absmax, state.state2.code, state.offset]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (192, 576), (128, 10)])
def test_4bit_bytes_are_those_that_bitsandbytes_holds(inputs, outputs, double):
    from bitsandbytes.nn import Linear4bit, Params4bit

    layer = Linear4bit(inputs, outputs, bias=False, compress_statistics=double, quant_type="nf4")
    weight = torch.randn(outputs, inputs)
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=double)
    assert bytes_of_4bit(inputs * outputs, double) == held_in_4bit(layer.to("cpu"))


def test_4bit_by_hand():
    # 4096 numbers: 2048 bytes, 64 scales, 16 codes
    assert bytes_of_4bit(4096) == 2048 + 4 * 64 + 64
    # 64 scales of a byte share one of float32; 256 codes and a mean for scales
    assert bytes_of_4bit(4096, double_quant=True) == 2048 + 64 + 4 + 4 * 257 + 64
    assert bytes_of_8bit(outputs=10, inputs=20) == 200 + 40


def state_bytes(optimizer) -> int:
    """Of tensors as large as a weight: counters of steps left out."""
    states = (
        value for state in optimizer.state.values() for name, value in state.items() if name not in ("step", "RMS")
    )
    return sum(value.numel() * value.element_size() for value in states if torch.is_tensor(value))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw_torch", torch.optim.AdamW),
        ("adamw_torch_fused", lambda weights: torch.optim.AdamW(weights, fused=True)),
        ("sgd", torch.optim.SGD),
        ("adagrad", torch.optim.Adagrad),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_optimizer_bytes_are_those_of_a_real_optimizer(name, make):
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((30, 20), (7,))]
    optimizer = make(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert bytes_of_optimizer(name, [((30, 20), 4), ((7,), 4)]) == state_bytes(optimizer)


def test_adafactor_bytes_are_those_of_transformers():
    from transformers.optimization import Adafactor

    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((30, 20), (7,))]
    optimizer = Adafactor(weights, scale_parameter=False, relative_step=False, lr=1e-3)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert bytes_of_optimizer("adafactor", [((30, 20), 4), ((7,), 4)]) == 4 * (30 + 20 + 7) == state_bytes(optimizer)


def test_optimizers_by_hand():
    assert bytes_of_optimizer("adamw_torch", [((1000,), 2)]) == 4000  # as bfloat16 as the weight
    assert bytes_of_optimizer("paged_adamw_32bit", [((1000,), 2)]) == 8000
    assert bytes_of_optimizer("adamw_8bit", [((256, 256), 4)]) == 2 * (65536 + 4 * 256)
    assert bytes_of_optimizer("lion_8bit", [((4095,), 4)]) == 4 * 4095  # too few to be packed
    assert bytes_of_optimizer("galore_adamw", [((4, 4), 4)]) is None


def test_every_counted_optimizer_is_one_that_transformers_knows():
    from transformers.training_args import OptimizerNames

    from egup_trainer.planning import sizes

    counted = {*sizes.STATES, *sizes.STATES_FLOAT32, *sizes.STATES_8BIT, "adafactor"}
    assert counted <= {each.value for each in OptimizerNames}


def test_features_and_scan_by_hand():
    assert bytes_of_features(forget=100, retain=40, bank=32, size=16) == (200 + 40) * 16 * 2 + 32 * 16 * 4
    # 40,000,000 numbers of 2 bytes are more than 64 MB: a byte each
    assert bytes_of_features(forget=40_000, retain=0, bank=0, size=1000) == 2 * 40_000_000
    assert bytes_of_scan(rows=10, size=6) == 2 * 4 * 10 * 8


def test_types_by_name():
    assert [item_size(name) for name in ("float32", torch.bfloat16, None, "auto")] == [4, 2, 4, 4]
