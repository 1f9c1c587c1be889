"""EGUP's weights, boundary and cache, of any features and losses."""

from dataclasses import replace

import pytest
import torch
from fixtures_components import components_for, look, options
from fixtures_properties import FAR, answer_rows, draw_order, join, tensors, units
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from egup_trainer.components.embedding_cache import EmbeddingCache
from egup_trainer.components.feature_space import FeatureSpace, drift, inter_sample_entanglement, random_projection
from egup_trainer.components.inter_sample import inter_sample_weights
from egup_trainer.components.intra_sample import intra_sample_weights
from egup_trainer.components.proxy_constraint import (
    nearest_proxies,
    proxy_boundary,
    proxy_effort,
    proxy_penalty,
)

COSINES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8).map(torch.tensor)
DRIFTS = st.lists(st.floats(0, 2, width=32), min_size=1, max_size=8).map(torch.tensor)
TEMPERATURES = st.sampled_from([0.05, 0.5, 3.0, 100.0])
CLIP = (0.2, 5.0)
UP = 1 + 1e-6


@given(st.integers(1, 4).flatmap(lambda rows: tensors(rows, 3)), tensors(3), st.sampled_from([None, 3]))
def test_features_have_length_1_unless_they_lie_at_the_centre(rows, center, cache_dim):
    rows = torch.cat([rows, center[None]]).requires_grad_()  # one is the centre itself
    space = FeatureSpace(center, random_projection(3, cache_dim, seed=0))
    phi, far = space(rows), (space.project(rows) - center).norm(dim=1) > 1e-6
    lengths = phi.norm(dim=1)
    assert ((lengths - 1).abs()[far] < 1e-5).all()
    assert (lengths < 1 + 1e-5).all()
    assert torch.autograd.grad(phi.sum(), rows)[0].isfinite().all()
    for index in far.nonzero().flatten().tolist():
        torch.testing.assert_close(space(rows[[index]])[0], phi[index], rtol=1e-3, atol=1e-3)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(lambda sizes: st.tuples(*map(units, sizes))),
    st.integers(1, 7),
    st.data(),
)
def test_entanglement_is_a_cosine_row_by_row_whatever_the_order_of_the_bank(features, neighbors, data):
    rows, bank = features
    values = inter_sample_entanglement(rows, bank, neighbors)
    assert (values.abs() <= UP).all()
    order, others = draw_order(data, rows), draw_order(data, bank)
    torch.testing.assert_close(inter_sample_entanglement(rows[order], bank[others], neighbors), values[order])
    if neighbors >= len(bank):
        torch.testing.assert_close(values, (rows @ bank.T).mean(dim=1))
    twice = inter_sample_entanglement(rows, torch.cat([bank, bank]), 2 * min(neighbors, len(bank)))
    torch.testing.assert_close(twice, values)


@given(COSINES, COSINES, TEMPERATURES, st.data())
def test_inter_sample_weights_stay_in_their_bounds_and_follow_the_rows(batch, cached, temperature, data):
    weights = inter_sample_weights(batch, cached, temperature, CLIP)
    assert ((weights >= CLIP[0] / UP) & (weights <= CLIP[1] * UP)).all()
    order, others = draw_order(data, batch), draw_order(data, cached)
    # Deviations of a few 1e-3 make cosines of float32 weigh 1e-4 more or less.
    mixed = inter_sample_weights(batch[order], cached[others], temperature, CLIP)
    torch.testing.assert_close(mixed, weights[order], rtol=1e-2, atol=1e-3)
    rise = weights[batch.argsort()].diff()
    assert (rise >= -1e-5).all()


@given(DRIFTS, DRIFTS, TEMPERATURES, st.data())
def test_intra_sample_weights_are_above_0_and_average_1_over_the_cache(batch, cached, temperature, data):
    weights = intra_sample_weights(batch, cached, temperature)
    assert weights.isfinite().all()
    assert (weights > 0).all()
    assert intra_sample_weights(cached, cached, temperature).mean().item() == pytest.approx(1, abs=1e-4)
    order, others = draw_order(data, batch), draw_order(data, cached)
    torch.testing.assert_close(
        intra_sample_weights(batch[order], cached[others], temperature), weights[order], rtol=1e-4, atol=1e-6
    )
    assert (weights[batch.argsort()].diff() <= 1e-6 * weights.max()).all()


@given(st.floats(-1, 1, width=32), st.integers(1, 9), TEMPERATURES)
def test_equal_samples_have_equal_weights_of_1(value, count, temperature):
    same = torch.full((count,), value)
    for weigh in (inter_sample_weights, intra_sample_weights):
        assert weigh(same, same, temperature).tolist() == pytest.approx([1] * count, abs=1e-4)


@given(st.integers(1, 4).flatmap(lambda rows: st.tuples(units(rows), units(rows))))
def test_drift_is_between_0_and_2_and_the_same_both_ways(features):
    now, before = features
    values = drift(now, before)
    assert ((values >= 1 - UP) & (values <= 2 * UP)).all()
    assert torch.equal(values, drift(before, now))
    assert drift(now, now).tolist() == pytest.approx((1 - now.square().sum(dim=1)).tolist())


@given(
    st.lists(st.tuples(st.floats(0, FAR, width=32), st.floats(0, FAR, width=32)), min_size=1, max_size=6),
    st.floats(0, 10),
    st.sampled_from([0.001, 0.2, 30.0]),
)
def test_the_penalty_pulls_back_as_much_as_the_effort_lacks(pairs, strength, temperature):
    nll, boundary = (torch.tensor(values) for values in zip(*pairs, strict=True))
    nll.requires_grad_()
    effort, penalty = (form(nll, boundary, strength, temperature) for form in (proxy_effort, proxy_penalty))
    assert penalty.isfinite().all()
    assert (penalty >= 0).all()
    assert ((effort >= 1 - strength - 1e-5) & (effort <= UP)).all()
    (slope,) = torch.autograd.grad(penalty.sum(), nll)
    torch.testing.assert_close(slope, 1 - effort, rtol=1e-4, atol=1e-5)
    order = (nll - boundary).detach().argsort()
    assert (effort[order].diff() <= 1e-6 * max(strength, 1)).all()
    assert (penalty[order].diff() >= -1e-6 * penalty.max()).all()


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
        lambda sizes: st.tuples(*map(units, sizes), tensors(sizes[1], elements=st.floats(0, FAR, width=32)))
    ),
    st.integers(1, 7),
    st.data(),
)
def test_boundaries_lie_between_the_least_and_the_most_likely_proxy(drawn, neighbors, data):
    forget, proxies, nll = drawn
    boundary = proxy_boundary(nll, nearest_proxies(proxies, forget, neighbors))
    assert ((boundary >= nll.min() / UP) & (boundary <= nll.max() * UP)).all()
    order = draw_order(data, forget)
    mixed = proxy_boundary(nll, nearest_proxies(proxies, forget[order], neighbors))
    if neighbors >= len(proxies):  # else, of proxies that are equally near, which ones count is left open
        torch.testing.assert_close(boundary, nll.mean().expand(len(forget)))
        torch.testing.assert_close(mixed, boundary[order])


def unlike(count, seed):
    """Unit vectors that are all different."""
    return normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def make_cache(num_forget, num_retain, bank_size):
    return EmbeddingCache.build(
        unlike(num_forget, 0),
        unlike(num_retain, 1),
        torch.arange(num_retain),
        num_retain,
        space=FeatureSpace(torch.zeros(3)),
        neighbors=2,
        bank_size=bank_size,
    )


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 9), st.data())
def test_the_cache_holds_each_rows_last_visit_and_the_last_retain_rows(num_forget, num_retain, bank_size, data):
    cache, pushed = make_cache(num_forget, num_retain, bank_size), unlike(num_retain, 1)
    latest, features = unlike(num_forget, 0), {}
    for step in range(data.draw(st.integers(1, 5))):
        for side, count in (("forget", num_forget), ("retain", num_retain)):
            visited = data.draw(st.permutations(range(count)))[: data.draw(st.integers(0, count))]
            ids = torch.tensor(data.draw(st.permutations([*visited, -1])))  # a filler stands anywhere
            features[side] = (ids, unlike(count, 10 * step + count)[ids])
        ids, forget = features["forget"]
        cache.commit(ids, forget, forget[:, 0], forget[:, 1], *features["retain"])
        latest[ids[ids >= 0]] = forget[ids >= 0]
        ids, retain = features["retain"]
        pushed = torch.cat([pushed, retain[ids.argsort()][1:]])
    torch.testing.assert_close(cache.latest[torch.arange(num_forget)], latest, atol=1e-3, rtol=0)
    expected = pushed[-bank_size:]
    torch.testing.assert_close(cache.bank[cache.bank[:, 0].argsort()], expected[expected[:, 0].argsort()])


OPTIONS = options(inter_entanglement=True, intra_entanglement=True, inter_neighbors=2)


@settings(max_examples=60)
@given(rows=answer_rows(), negative=st.booleans(), data=st.data())
def test_weights_of_a_step_are_those_of_its_cuts_and_stay_finite(rows, negative, data):
    count = len(rows)
    features = data.draw(tensors(count, 3))
    boundary = data.draw(tensors(count, elements=st.floats(0, FAR, width=32)))
    components = components_for(OPTIONS, make_cache(count, 3, 4), boundary, negative)

    def values(indexes):
        outputs = replace(join([rows[index] for index in indexes]).outputs, features=features[indexes])
        step = look(components, outputs, torch.tensor(indexes))
        gap, seen = step.latest("boundary_gap"), step.features
        return {"weights": step.weights, "gap": gap, "entanglement": seen.entanglement, "drift": seen.drift}

    whole = values(list(range(count)))
    assert whole["weights"].isfinite().all()
    assert negative or (whole["weights"] >= 0).all()
    assert whole["gap"].isfinite().all()
    order = data.draw(st.permutations(range(count)))
    cut = data.draw(st.integers(0, count))
    for indexes in filter(None, (order[:cut], order[cut:])):
        for name, found in values(list(indexes)).items():
            torch.testing.assert_close(found, whole[name][list(indexes)], rtol=1e-3, atol=1e-4)
