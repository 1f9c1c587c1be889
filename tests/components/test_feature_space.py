"""The map from hidden states to phi."""

import pytest
import torch

from egup_trainer.components.feature_space import FeatureSpace, random_projection


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit(features, cache_dim=None, seed=0):
    """The space for features that are not projected yet."""
    projection = random_projection(features.shape[1], cache_dim, seed)
    return FeatureSpace.fit(features if projection is None else features @ projection, projection)


def test_phi_is_centred_then_of_unit_length():
    space = fit(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), cache_dim=None, seed=0)
    assert space.center.tolist() == [2, 3]
    assert space.projection is None
    phi = space(torch.tensor([[5.0, 7.0], [2.0, 1.0]]))  # (3, 4) and (0, -2) from the centre
    assert phi.flatten().tolist() == pytest.approx([0.6, 0.8, 0, -1])


def test_phi_is_projected_before_it_is_centred():
    projection = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    space = FeatureSpace(torch.tensor([1.0, 1.0]), projection)
    phi = space(torch.tensor([[2.0, 1.0, 2.0]]))  # projected (4, 4), centred (3, 3)
    assert phi.flatten().tolist() == pytest.approx([0.5**0.5, 0.5**0.5])


def test_the_centre_is_the_mean_of_the_projected_features():
    features = draw(20, 8)
    space = fit(features, cache_dim=3, seed=5)
    torch.testing.assert_close(space.center, (features @ space.projection).mean(dim=0))
    assert space.projection.shape == (8, 3)


def test_centring_takes_away_the_common_direction():
    features = draw(200, 16) + 50
    phi = fit(features)(features)
    cosines = (phi @ phi.T)[~torch.eye(200, dtype=torch.bool)]
    assert abs(cosines.mean().item()) < 0.02
    assert cosines.std() > 0.1


@pytest.mark.parametrize("cache_dim", [None, 3])
def test_the_gradient_passes(cache_dim):
    space = fit(draw(20, 8), cache_dim, seed=0)
    features = draw(2, 8, seed=1).double().requires_grad_()
    wide = FeatureSpace(space.center.double(), None if space.projection is None else space.projection.double())
    assert torch.autograd.gradcheck(wide, (features,))
    wide(features)[0, 0].backward()
    assert features.grad[0].any()
    assert not features.grad[1].any()


def test_the_projection_roughly_keeps_cosines():
    features = draw(60, 512)
    features[30:] += features[:30]  # cosines of 0.7 among them
    whole = fit(features)(features)
    small = fit(features, 256, 0)(features)
    assert small.shape == (60, 256)
    differences = whole @ whole.T - small @ small.T
    assert differences.abs().max() < 0.3
    assert differences.pow(2).mean().sqrt() < 0.08  # about 1 / sqrt(256)


def test_the_projection_keeps_lengths_in_expectation():
    projection = random_projection(400, 100, seed=0)
    assert projection.pow(2).sum(dim=1).mean() == pytest.approx(1, abs=0.02)
    assert projection.mean().item() == pytest.approx(0, abs=0.002)


def test_the_projection_follows_the_seed_alone():
    first, again, other = (fit(draw(3, 8, seed=seed), 4, seed // 2).projection for seed in (0, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    state = torch.random.get_rng_state()
    fit(draw(3, 8), 4, 0)
    assert torch.equal(torch.random.get_rng_state(), state)  # a run's other random numbers stay as they are


def test_phi_stays_float32_under_autocast():
    space = fit(draw(20, 8), 4, seed=0)
    features = draw(5, 8, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        phi = space(features)
    assert phi.dtype == torch.float32
    assert torch.equal(phi, space(features))


def test_another_device_has_the_same_map():
    for cache_dim in (None, 4):
        space = fit(draw(20, 8), cache_dim, seed=0)
        features = draw(5, 8, seed=1)
        assert torch.equal(space.to(torch.device("cpu"))(features), space(features))


@pytest.mark.parametrize("cache_dim", [None, 4])
def test_what_was_projected_as_it_was_read_has_the_same_place(cache_dim):
    space, features = fit(draw(20, 8), cache_dim), draw(5, 8, seed=1)
    assert torch.equal(space.normalize(space.project(features)), space(features))
