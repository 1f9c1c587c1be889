"""What a micro-batch shows, and the weights that follow, switch by switch."""

from enum import Enum
from math import cos, exp
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from egup_trainer.guidance.embedding_cache import EmbeddingCache
from egup_trainer.guidance.features import FeatureSpace, random_projection
from egup_trainer.guidance.guide import Guide
from egup_trainer.guidance.proxy_constraint import ProxyForm
from egup_trainer.modeling.outputs import AnswerOutputs


class Since(str, Enum):
    INITIAL = "initial"
    PREVIOUS = "previous"


BOUNDARY = torch.tensor([2.0, 3.0, 4.0])
IDS, RETAIN_IDS = torch.tensor([2, 0]), torch.tensor([3, 0])
ANGLES = (2.3, 0.1)  # of forget rows 2 and 0, which stood at 2 and 0 before unlearning
NLL = (4.1, 1.0)


def options(**chosen):
    return SimpleNamespace(
        **{
            "inter_entanglement": False,
            "inter_neighbors": 1,
            "inter_temperature": 1.0,
            "inter_clip_min": 0.2,
            "inter_clip_max": 5.0,
            "intra_entanglement": False,
            "intra_temperature": 0.5,
            "drift_reference": Since.INITIAL,
            "proxy_form": ProxyForm.EFFORT,
            "proxy_lambda": 2.0,
            "proxy_temperature": 0.2,
            "bank_size": 3,
            **chosen,
        }
    )


@pytest.fixture
def cache(make_cache):
    """Forget rows at 0, 1, 2 with entanglement 0.2, 0.4, 0.6 and drift 0, 0.1, 0.2; bank at 0.5 and 1.5."""
    cache = make_cache()
    cache.entanglement, cache.drift = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.0, 0.1, 0.2])
    return cache


@pytest.fixture
def outputs(units):
    """outputs(angles, nlls): rows of two tokens with these features and mean negative log-likelihoods."""

    def make(angles=ANGLES, nlls=NLL):
        logps = torch.tensor([-nll + side for nll in nlls for side in (-0.5, 0.5)], requires_grad=True)
        rows = torch.arange(len(nlls)).repeat_interleave(2)
        return AnswerOutputs(logps, rows, torch.full((len(nlls),), 2.0), units(*angles).mul(7).requires_grad_())

    return make


def sigmoid(value):
    return 1 / (1 + exp(-value))


ENTANGLEMENT = [cos(2.3 - 1.5), cos(0.5 - 0.1)]
DRIFT = [1 - cos(0.3), 1 - cos(0.1)]
EFFORTS = [1 - 2 * sigmoid(0.1 / 0.2), 1 - 2 * sigmoid(-1 / 0.2)]


def inter_weights():
    deviation = (2 * 0.2**2 / 3) ** 0.5
    scale = sum(exp((e - 0.4) / deviation) for e in (0.2, 0.4, 0.6)) / 3
    return [min(max(exp((e - 0.4) / deviation) / scale, 0.2), 5) for e in ENTANGLEMENT]


def intra_weights():
    scale = sum(exp(-d / 0.5) for d in (0.0, 0.1, 0.2)) / 3
    return [exp(-d / 0.5) / scale for d in DRIFT]


@pytest.mark.parametrize("proxy", [False, True], ids=["", "proxy"])
@pytest.mark.parametrize("intra", [False, True], ids=["", "intra"])
@pytest.mark.parametrize("inter", [False, True], ids=["", "inter"])
def test_each_switch_brings_its_factor(inter, intra, proxy, cache, outputs):
    guide = Guide(options(inter_entanglement=inter, intra_entanglement=intra), True, cache, BOUNDARY if proxy else None)
    sight = guide.look(outputs(), IDS, outputs(), RETAIN_IDS)
    expected = [1.0, 1.0]
    for is_on, factors in ((inter, inter_weights()), (intra, intra_weights()), (proxy, EFFORTS)):
        expected = [weight * factor if is_on else weight for weight, factor in zip(expected, factors, strict=True)]
    assert sight.weights.tolist() == pytest.approx(expected, rel=3e-3)  # phi_0 is kept in float16
    assert not sight.weights.requires_grad
    assert (sight.boundary_gap is not None) is proxy


def test_what_is_seen_of_features(cache, outputs, units):
    sight = Guide(options(), True, cache, None).look(outputs(), IDS, outputs((0.7, 0.8)), RETAIN_IDS)
    assert sight.entanglement.tolist() == pytest.approx(ENTANGLEMENT, rel=1e-4)
    assert sight.drift.tolist() == pytest.approx(DRIFT, abs=1e-3)
    torch.testing.assert_close(sight.forget_features, units(*ANGLES))
    torch.testing.assert_close(sight.retain_features, units(0.7, 0.8))
    assert sight.forget_features.requires_grad  # CLReg learns through them
    assert sight.retain_features.requires_grad
    assert not sight.entanglement.requires_grad
    assert not sight.drift.requires_grad
    assert sight.boundary_gap is None
    assert (sight.forget_ids.tolist(), sight.retain_ids.tolist()) == ([2, 0], [3, 0])


def test_neighbors_temperatures_and_clip_are_heeded(cache, outputs):
    near = Guide(options(inter_neighbors=2), True, cache, None).look(outputs(), IDS, None, RETAIN_IDS)
    expected = [(cos(2.3 - 0.5) + cos(2.3 - 1.5)) / 2, (cos(0.1 - 0.5) + cos(0.1 - 1.5)) / 2]
    assert near.entanglement.tolist() == pytest.approx(expected, rel=1e-4)
    assert near.retain_features is None
    clipped = options(inter_entanglement=True, inter_clip_min=0.9, inter_clip_max=1.1)
    assert Guide(clipped, True, cache, None).look(outputs(), IDS, None, RETAIN_IDS).weights.max() <= 1.1
    hot = options(inter_entanglement=True, inter_temperature=1e6, intra_entanglement=True, intra_temperature=1e6)
    weights = Guide(hot, True, cache, None).look(outputs(), IDS, None, RETAIN_IDS).weights
    assert weights.tolist() == pytest.approx([1, 1], abs=1e-4)


def test_drift_from_the_previous_visit(cache, outputs, units):
    cache.latest[torch.arange(3)] = units(0.4, 1.0, 2.1)
    look = {
        since: Guide(options(drift_reference=since), True, cache, None).look(outputs(), IDS, None, RETAIN_IDS).drift
        for since in Since
    }
    assert look[Since.INITIAL].tolist() == pytest.approx(DRIFT, abs=1e-3)
    assert look[Since.PREVIOUS].tolist() == pytest.approx([1 - cos(0.2), 1 - cos(0.3)], abs=1e-3)


def test_the_gap_is_measured_from_each_rows_own_boundary(outputs):
    sight = Guide(options(), True, None, BOUNDARY).look(outputs(), IDS, None, RETAIN_IDS)
    assert sight.boundary_gap.tolist() == pytest.approx([0.1, -1.0], abs=1e-5)
    assert sight.weights.tolist() == pytest.approx(EFFORTS, abs=1e-4)
    assert not sight.boundary_gap.requires_grad
    assert sight.forget_features is None
    assert sight.entanglement is None


def test_strength_and_temperature_of_the_boundary_are_heeded(outputs):
    chosen = options(proxy_lambda=0.5, proxy_temperature=1.0)
    sight = Guide(chosen, True, None, BOUNDARY).look(outputs(), IDS, None, RETAIN_IDS)
    assert sight.weights.tolist() == pytest.approx([1 - 0.5 * sigmoid(0.1), 1 - 0.5 * sigmoid(-1)], abs=1e-4)


def test_efforts_stop_at_zero_for_objectives_that_do_not_pull_back(outputs):
    clamped = Guide(options(), False, None, BOUNDARY).look(outputs(), IDS, None, RETAIN_IDS)
    assert EFFORTS[0] < 0
    assert clamped.weights.tolist() == pytest.approx([0, EFFORTS[1]], abs=1e-4)


def test_the_penalty_form_leaves_weights_alone(outputs):
    sight = Guide(options(proxy_form=ProxyForm.PENALTY), True, None, BOUNDARY).look(outputs(), IDS, None, RETAIN_IDS)
    assert sight.weights.tolist() == [1, 1]
    assert sight.boundary_gap.tolist() == pytest.approx([0.1, -1.0], abs=1e-5)


def test_without_any_part_all_weights_are_one(outputs):
    sight = Guide(options(inter_entanglement=True), True, None, None).look(outputs(), IDS, None, RETAIN_IDS)
    assert sight.weights.tolist() == [1, 1]


def test_looking_changes_nothing(cache, outputs):
    guide = Guide(options(inter_entanglement=True, intra_entanglement=True), True, cache, BOUNDARY)
    before = {name: tensor.clone() for name, tensor in guide.state_dict().items()}
    first = guide.look(outputs(), IDS, outputs(), RETAIN_IDS)
    again = guide.look(outputs(), IDS, outputs(), RETAIN_IDS)
    assert torch.equal(first.weights, again.weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in guide.state_dict().items())


def test_weights_do_not_depend_on_the_cut_of_a_step(cache, outputs):
    guide = Guide(options(inter_entanglement=True, intra_entanglement=True), True, cache, BOUNDARY)
    whole = guide.look(outputs(), IDS, None, RETAIN_IDS).weights
    parts = [
        guide.look(outputs([a], [n]), IDS[p : p + 1], None, RETAIN_IDS).weights
        for p, (a, n) in enumerate(zip(ANGLES, NLL))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_fillers_are_finite_and_do_not_disturb_the_others(cache, outputs):
    guide = Guide(options(inter_entanglement=True, intra_entanglement=True), True, cache, BOUNDARY)
    filled = outputs((*ANGLES, 0.0), (*NLL, 0.0))
    sight = guide.look(filled, torch.tensor([2, 0, -1]), outputs(), RETAIN_IDS)
    assert sight.weights.isfinite().all()
    assert torch.equal(sight.weights[:2], guide.look(outputs(), IDS, outputs(), RETAIN_IDS).weights)


@pytest.mark.parametrize("cache_dim", [None, 3])
@pytest.mark.parametrize("parts", ["cache", "boundary", "both", "none"])
def test_a_checkpoint_brings_the_guide_back(parts, cache_dim, tmp_path):
    generator = torch.Generator().manual_seed(0)
    forget, retain = torch.randn(3, 8, generator=generator), torch.randn(5, 8, generator=generator)
    projection, cache = random_projection(8, cache_dim, seed=0), None
    read = [each if projection is None else each @ projection for each in (forget, retain)]
    space = FeatureSpace.fit(read[1], projection)
    if parts in ("cache", "both"):
        cache = EmbeddingCache.build(*read, torch.arange(5), 5, space=space, neighbors=2, bank_size=3)
    chosen = options(inter_entanglement=True, intra_entanglement=True)
    guide = Guide(chosen, True, cache, BOUNDARY if parts in ("boundary", "both") else None)
    save_file(guide.state_dict(), tmp_path / "guide.safetensors")
    loaded = Guide.from_state_dict(chosen, True, load_file(tmp_path / "guide.safetensors"))
    assert loaded.state_dict().keys() == guide.state_dict().keys()
    assert all(torch.equal(tensor, guide.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert (loaded.cache is None) is (cache is None)
    out = AnswerOutputs(torch.tensor([-1.0, -2.0, -3.0]), torch.arange(3), torch.ones(3), forget + 0.5)
    ids = torch.arange(3)
    assert torch.equal(loaded.look(out, ids, out, ids).weights, guide.look(out, ids, out, ids).weights)


def test_a_restored_guide_still_clamps(outputs):
    state = Guide(options(), False, None, BOUNDARY).state_dict()
    sight = Guide.from_state_dict(options(), False, state).look(outputs(), IDS, None, RETAIN_IDS)
    assert sight.weights[0] == 0
