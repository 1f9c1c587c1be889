"""GPTQ: values by hand, its error beside that of rounding to the nearest, and the copy of a model."""

import pytest
import torch
from conftest import make_tiny_model

from egup_trainer.modeling.gptq import GROUP, gptq_copy, gptq_round, grid_of, round_to_grid


def round_to_nearest(weight, group=GROUP):
    """Each weight rounded by itself, on the grids that groups have before any column is changed."""
    return torch.cat([round_to_grid(part, grid_of(part)) for part in weight.split(group, dim=1)], dim=1)


def output_error(weight, rounded, hessian):
    """|W X - W' X|^2 = tr((W - W') H (W - W')^T)."""
    away = (weight - rounded).double()
    return float((away @ hessian.double() * away).sum())


def test_a_grid_spans_the_row_and_zero():
    scale, zero = grid_of(torch.tensor([[-5.0, 10.0], [1.0, 30.0], [-15.0, -3.0], [0.0, 0.0]]))
    assert scale.flatten().tolist() == [1.0, 2.0, 1.0, 1.0]
    assert zero.flatten().tolist() == [5.0, 0.0, 15.0, 0.0]
    found = round_to_grid(torch.tensor([[-5.4, 0.3, 9.6, 12.0]]), (scale[:1], zero[:1]))
    assert found.tolist() == [[-5.0, 0.0, 10.0, 10.0]]


def test_two_inputs_by_hand():
    """The first weight is rounded from 4.4 to 4; the second one takes over H_12 / H_22 = 1/2 of the 0.4 that are lost.

    It goes from 7.4 to 7.4 + 0.4 / 2 = 7.6 and is rounded to 8, where by itself it would be 7. The third sets the grid.
    """
    weight = torch.tensor([[4.4, 7.4, 15.0]])
    hessian = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert round_to_nearest(weight).tolist() == [[4.0, 7.0, 15.0]]
    assert gptq_round(weight, hessian, damping=1e-6).tolist() == [[4.0, 8.0, 15.0]]


@pytest.mark.parametrize("size", [5, 64, 200])
def test_inputs_that_are_not_correlated_leave_the_nearest(size):
    torch.manual_seed(size)
    weight = torch.randn(7, size)
    inputs, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    for hessian in ((inputs @ inputs.T).float(), torch.eye(size), torch.zeros(size, size)):
        torch.testing.assert_close(gptq_round(weight, hessian, group=64), round_to_nearest(weight, group=64))


@pytest.mark.parametrize("seed", range(10))
def test_its_error_on_calibration_rows_is_not_larger(seed):
    torch.manual_seed(seed)
    weight = torch.randn(16, 96)
    inputs = torch.randn(96, 24) @ torch.randn(24, 400) + 0.3 * torch.randn(96, 400)
    hessian = inputs @ inputs.T
    errors = [
        output_error(weight, rounded, hessian)
        for rounded in (gptq_round(weight, hessian, group=32), round_to_nearest(weight, group=32))
    ]
    assert 0 < errors[0] < errors[1]


def test_what_no_calibration_row_shows_is_rounded_away():
    """A change, along a direction that is orthogonal to all inputs, of weights at the points of their grids.

    What is left of it comes from the grid, whose ends have moved a little.
    """
    torch.manual_seed(0)
    snapped = round_to_nearest(torch.randn(6, 32))
    unseen = torch.nn.functional.normalize(torch.randn(32), dim=0)
    inputs = torch.randn(32, 400)
    inputs -= torch.outer(unseen, unseen @ inputs)
    moved = snapped + 0.2 * grid_of(snapped)[0] * unseen
    assert not torch.equal(moved, snapped)
    rounded = gptq_round(moved, inputs @ inputs.T, damping=1e-4)
    assert (rounded - snapped).norm() < 0.5 * (moved - snapped).norm()


def test_each_group_has_its_own_grid_of_sixteen_points():
    torch.manual_seed(0)
    weight = torch.randn(4, 100)
    inputs = torch.randn(100, 300)
    rounded = gptq_round(weight, inputs @ inputs.T, group=32)
    sizes = [len(row.unique()) for part in rounded.split(32, dim=1) for row in part]
    assert max(sizes) <= 16
    assert max(len(row.unique()) for row in rounded) > 16


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_copy_is_nearer_to_the_model_than_one_rounded_to_the_nearest(tokenizer, name):
    model = make_tiny_model(tokenizer, name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # outputs that differ from token to token
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rows = [torch.randint(0, 200, (40,), generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
    rounded = gptq_copy(model, rows, group=16)
    changed = {key for key, value in rounded.state_dict().items() if not torch.equal(value, before[key])}
    names = ("proj", "c_attn", "c_fc")
    assert changed == {key for key in before if any(part in key for part in names) and key.endswith("weight")}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    nearest = make_tiny_model(tokenizer, name).eval()
    nearest.load_state_dict(before)
    for key, weight in nearest.named_parameters():
        if key in changed:
            turned = weight.data.T if name == "gpt2" else weight.data
            nearest_weight = round_to_nearest(turned, group=16)
            weight.data = nearest_weight.T.contiguous() if name == "gpt2" else nearest_weight
    with torch.no_grad():
        away = [
            sum((each(input_ids=row[None]).logits - model(input_ids=row[None]).logits).square().sum() for row in rows)
            for each in (rounded, nearest)
        ]
    assert 0 < away[0] < away[1]


def test_a_model_without_linear_layers_is_refused(tokenizer):
    model = make_tiny_model(tokenizer)
    for layer in model.model.layers:
        layer.self_attn, layer.mlp = torch.nn.Identity(), torch.nn.Identity()
    with pytest.raises(RuntimeError, match="no layer of the model can be quantized"):
        gptq_copy(model, [])
