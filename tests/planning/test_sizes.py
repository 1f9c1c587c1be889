"""Sizes by hand, and as the libraries hold them."""

import pytest
import torch

from egup_trainer.planning.sizes import STATES, bytes_of_4bit, bytes_of_optimizer


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (192, 576), (128, 10)])
def test_4bit_bytes_are_those_that_bitsandbytes_holds(inputs, outputs, double):
    from bitsandbytes.nn import Linear4bit, Params4bit

    layer = Linear4bit(inputs, outputs, bias=False, compress_statistics=double, quant_type="nf4")
    weight = torch.randn(outputs, inputs)
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=double)
    weight = layer.to("cpu").weight
    state = weight.quant_state
    held = [weight, state.absmax, state.code]
    if state.nested:
        held += [state.state2.absmax, state.state2.code, state.offset]
    assert bytes_of_4bit(inputs * outputs, double) == sum(each.numel() * each.element_size() for each in held)


def adafactor(weights):
    from transformers.optimization import Adafactor

    return Adafactor(weights, scale_parameter=False, relative_step=False, lr=1e-3)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw_torch", torch.optim.AdamW),
        ("adamw_torch_fused", lambda weights: torch.optim.AdamW(weights, fused=True)),
        ("sgd", torch.optim.SGD),
        ("adagrad", torch.optim.Adagrad),
        ("rmsprop", torch.optim.RMSprop),
        ("adafactor", adafactor),
    ],
)
def test_optimizer_bytes_are_those_of_a_real_optimizer(name, make):
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((30, 20), (7,))]
    optimizer = make(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    states = [each for state in optimizer.state.values() for key, each in state.items() if key not in ("step", "RMS")]
    held = sum(value.numel() * value.element_size() for value in states if torch.is_tensor(value))
    assert bytes_of_optimizer(name, [((30, 20), 4), ((7,), 4)]) == held


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("adamw_torch", (1000,), 4000),  # in bfloat16, as the weight
        ("paged_adamw_32bit", (1000,), 8000),
        ("adamw_8bit", (256, 256), 2 * (65536 + 4 * 256)),
        ("lion_8bit", (4095,), 4 * 4095),  # too few for 8 bits
        ("galore_adamw", (4, 4), None),
    ],
)
def test_optimizers_of_bfloat16_weights_by_hand(name, shape, expected):
    assert bytes_of_optimizer(name, [(shape, 2)]) == expected


def test_every_counted_optimizer_is_one_of_transformers():
    from transformers.training_args import OptimizerNames

    assert STATES.keys() <= {each.value for each in OptimizerNames}
