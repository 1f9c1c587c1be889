"""Entanglement and the weights that follow from it: values by hand, averages, directions, extremes."""

from math import cos, exp, log, sqrt

import pytest
import torch

from egup_trainer.components.feature_space import centroid_entanglement, drift, inter_sample_entanglement
from egup_trainer.components.inter_sample import inter_sample_weights
from egup_trainer.components.intra_sample import intra_sample_weights

WIDE = (0.0, 1e9)


@pytest.mark.parametrize(
    ("neighbors", "chosen"), [(1, [0.2]), (2, [0.2, 0.9]), (3, [0.2, 0.9, 3.0]), (8, [0.2, 0.9, 3.0])]
)
def test_entanglement_is_the_mean_of_the_largest_cosines(neighbors, chosen, units):
    values = inter_sample_entanglement(units(0.0), units(0.9, 3.0, 0.2), neighbors)
    assert values.tolist() == pytest.approx([sum(map(cos, chosen)) / len(chosen)], rel=1e-5)


def test_entanglement_with_the_centroid_is_the_cosine_to_it(units):
    hidden = torch.tensor([[2.0], [1.0], [0.5]]) * units(0.0, 1.0, 3.0)  # lengths do not matter
    values = centroid_entanglement(hidden, 4 * units(0.2)[0])
    assert values.tolist() == pytest.approx([cos(0.2), cos(0.8), cos(2.8)], rel=1e-5)


def test_drift_is_one_minus_the_cosine(units):
    values = drift(units(0.0, 0.5, 1.0), units(0.0, 1.2, 1.0 + 3.14159265))
    assert values.tolist() == pytest.approx([0, 1 - cos(0.7), 2], abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_inter_weights_by_hand(temperature):
    # Cache 1, 2, 3: mean 2, deviation sqrt(2 / 3); standardised -a, 0, a.
    a = 1 / sqrt(2 / 3)
    scale = (exp(-a / temperature) + 1 + exp(a / temperature)) / 3
    weights = inter_sample_weights(torch.tensor([2.0, 3.0, 2.5]), torch.tensor([1.0, 2.0, 3.0]), temperature, WIDE)
    expected = [1 / scale, exp(a / temperature) / scale, exp(0.5 * a / temperature) / scale]
    assert weights.tolist() == pytest.approx(expected, rel=1e-5)


def test_entangled_samples_get_more_and_moved_samples_less():
    cached = torch.tensor([0.1, 0.3, 0.5, 0.9])
    assert (inter_sample_weights(cached, cached).diff() > 0).all()
    assert (intra_sample_weights(cached, cached).diff() < 0).all()


def test_inter_weights_do_not_depend_on_the_scale_of_cosines():
    cached = torch.tensor([0.1, 0.3, 0.5, 0.9])
    torch.testing.assert_close(
        inter_sample_weights(cached, cached),
        inter_sample_weights(0.01 * cached + 0.9, 0.01 * cached + 0.9),
        rtol=1e-3,
        atol=0,
    )


def test_inter_weights_are_clipped():
    cached = torch.linspace(0, 1, 9)
    batch = torch.tensor([-5.0, 0.5, 5.0])
    assert inter_sample_weights(batch, cached, 1.0)[[0, 2]].tolist() == pytest.approx([0.2, 5])
    assert inter_sample_weights(batch, cached, 1.0, clip=(0.9, 1.1)).tolist() == pytest.approx([0.9, 0.9, 1.1])
    middle = inter_sample_weights(batch, cached, 1.0)[1].item()
    assert 0.2 < middle < 0.9


def test_intra_weights_by_hand():
    cached = torch.tensor([0.0, 0.5 * log(2)])  # exp(-d / 0.5) = 1 and 1 / 2, mean 3 / 4
    weights = intra_sample_weights(torch.tensor([0.0, 0.5 * log(2), 0.5 * log(4)]), cached, 0.5)
    assert weights.tolist() == pytest.approx([4 / 3, 2 / 3, 1 / 3], rel=1e-5)


@pytest.mark.parametrize("change", [1e-4, -1e-4, 0.01, -0.01])
def test_a_forget_set_of_one_row_has_nothing_to_be_weighed_against(change):
    # The cache holds the row's last value; the row itself has moved a little since. A mean weight of 1 is all there is.
    weight = inter_sample_weights(torch.tensor([0.4 + change]), torch.tensor([0.4])).item()
    assert weight == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("temperature", [0.2, 0.05, 0.01])
def test_inter_weights_are_finite_at_any_temperature(temperature):
    cached = torch.cat([torch.zeros(400), torch.ones(1)])  # one sample is 20 deviations from the mean
    weights = inter_sample_weights(cached, cached, temperature)
    assert weights.isfinite().all()
    assert weights[400] == pytest.approx(5)
    assert weights[:400].max() <= 1


@pytest.mark.parametrize("temperature", [0.5, 0.02, 0.002])
def test_intra_weights_are_finite_at_any_temperature(temperature):
    cached = torch.tensor([1.0, 1.0, 1.2])
    weights = intra_sample_weights(cached, cached, temperature)
    assert weights.isfinite().all()
    assert weights.mean() == pytest.approx(1, abs=1e-4)
