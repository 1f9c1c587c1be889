"""What is remembered from step to step: the ring bank, last visits, features before unlearning."""

from math import cos

import pytest
import torch
from safetensors.torch import load_file, save_file

from egup_trainer.components.embedding_cache import EmbeddingCache
from egup_trainer.components.feature_space import FeatureSpace, random_projection
from egup_trainer.errors import StateError

ALL = torch.arange(3)
NO_ROWS = (torch.zeros(0, dtype=torch.long), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0))


def push(cache, values, first_id=0):
    """Commits retain features (value, value) whose ids rise in the order of `values`."""
    features = torch.tensor(values, dtype=torch.float32)[:, None].repeat(1, 2)
    cache.commit(*NO_ROWS, torch.arange(first_id, first_id + len(values)), features)


def bank_values(cache):
    return sorted(cache.bank[:, 0].tolist())


def test_the_cache_before_the_first_step(make_cache, units):
    cache = make_cache(forget=(0.0, 1.0, 2.0), retain=(0.5, 1.6))
    torch.testing.assert_close(cache.initial[ALL], units(0.0, 1.0, 2.0), atol=1e-3, rtol=0)
    assert torch.equal(cache.latest[ALL], cache.initial[ALL])
    assert cache.entanglement.tolist() == pytest.approx([cos(0.5), cos(0.5), cos(0.4)], rel=1e-5)
    assert cache.drift.tolist() == [0, 0, 0]
    torch.testing.assert_close(cache.bank, units(0.5, 1.6))


def test_neighbors_count_in_the_first_entanglement(make_cache):
    cache = make_cache(forget=(0.0,), retain=(0.5, 1.6), neighbors=2)
    assert cache.entanglement.tolist() == pytest.approx([(cos(0.5) + cos(1.6)) / 2], rel=1e-5)


def step_of(units, order):
    """What one step saw of forget rows 2, 0 and two fillers, and of retain rows 4, 2 and a filler, in some order."""
    forget_ids, retain_ids = torch.tensor([2, -1, 0, -1]), torch.tensor([4, -1, 2])
    values = (units(2.2, 9.0, 0.3, 9.0), torch.tensor([0.7, 9.0, 0.1, 9.0]), torch.tensor([0.02, 9.0, 0.04, 9.0]))
    retain = units(0.6, 9.0, 0.8)
    forget_order, retain_order = torch.tensor(order), torch.tensor([place for place in order if place < 3])
    return (
        forget_ids[forget_order],
        *(value[forget_order] for value in values),
        retain_ids[retain_order],
        retain[retain_order],
    )


def test_a_commit_takes_over_real_rows_only(make_cache, units):
    cache = make_cache(bank_size=8)
    before = cache.entanglement.clone()
    cache.commit(*step_of(units, [0, 1, 2, 3]))
    torch.testing.assert_close(cache.latest[ALL], units(0.3, 1.0, 2.2), atol=1e-3, rtol=0)
    torch.testing.assert_close(cache.initial[ALL], units(0.0, 1.0, 2.0), atol=1e-3, rtol=0)
    assert cache.entanglement.tolist() == pytest.approx([0.1, before[1].item(), 0.7])
    assert cache.drift.tolist() == pytest.approx([0.04, 0, 0.02])
    torch.testing.assert_close(cache.bank, torch.cat([units(0.5, 1.5), units(0.8, 0.6)]))  # rows 2, then 4


@pytest.mark.parametrize("order", [[1, 0, 3, 2], [3, 2, 1, 0], [2, 3, 0, 1]])
def test_a_commit_does_not_depend_on_the_order_of_rows(order, make_cache, units):
    first, second = make_cache(), make_cache()
    for _ in range(2):
        first.commit(*step_of(units, [0, 1, 2, 3]))
        second.commit(*step_of(units, order))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_features_before_unlearning_of_retain_rows(make_cache, units):
    cache = make_cache(retain=(0.5, 1.5), ids=(3, 1))
    features, seen = cache.retain_reference(torch.tensor([1, 0, 3, -1, 4]))
    assert seen.tolist() == [True, False, True, False, False]
    torch.testing.assert_close(features[seen], units(1.5, 0.5), atol=1e-3, rtol=0)
    assert features.dtype == torch.float32
    assert features.shape == (5, 2)


def test_the_last_retain_row_is_not_taken_for_a_filler(make_cache):
    cache = make_cache(ids=(4, 1))
    assert cache.retain_reference(torch.tensor([4, -1]))[1].tolist() == [True, False]


def test_features_before_unlearning_outlive_the_bank(make_cache, units):
    cache = make_cache(retain=(0.5, 1.5), ids=(3, 1))
    push(cache, [10, 11, 12])
    torch.testing.assert_close(cache.retain_reference(torch.tensor([3]))[0], units(0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("cache_dim", [None, 3])
def test_a_checkpoint_brings_back_cache_and_space(cache_dim, tmp_path):
    generator = torch.Generator().manual_seed(0)
    forget, retain, new = (torch.randn(count, 8, generator=generator) for count in (4, 5, 2))
    projection = random_projection(8, cache_dim, seed=0)
    read = [each if projection is None else each @ projection for each in (forget, retain)]
    space = FeatureSpace.fit(read[1], projection)
    cache = EmbeddingCache.build(*read, torch.arange(5), 6, space=space, neighbors=2, bank_size=4)
    cache.commit(
        *(part[:0] for part in (torch.arange(1), space(new), new[:, 0], new[:, 0])), torch.tensor([5, 0]), space(new)
    )
    save_file(cache.state_dict(), tmp_path / "cache.safetensors")
    loaded = EmbeddingCache.from_state_dict(load_file(tmp_path / "cache.safetensors"), bank_size=4)
    assert all(torch.equal(tensor, cache.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert (loaded.space.projection is None) is (cache_dim is None)
    assert torch.equal(loaded.space(forget), space(forget))
    for each in (cache, loaded):  # the ring goes on at the same place
        each.commit(
            *(part[:0] for part in (torch.arange(1), space(new), new[:, 0], new[:, 0])),
            torch.tensor([1]),
            space(new[:1]),
        )
    assert torch.equal(loaded.bank, cache.bank)


def test_a_checkpoint_with_another_bank_size_is_refused(make_cache):
    with pytest.raises(StateError):
        EmbeddingCache.from_state_dict(make_cache(bank_size=3).state_dict(), bank_size=2)
