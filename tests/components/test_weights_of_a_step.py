"""What a micro-batch shows, and the weights that follow, switch by switch."""

from math import cos, exp, pi

import pytest
import torch
from fixtures_components import components_for, look, options
from safetensors.torch import load_file, save_file
from scipy.special import expit as sigmoid

from egup_trainer.components.embedding_cache import EmbeddingCache
from egup_trainer.components.feature_space import FeatureSpace, InterMatch
from egup_trainer.components.proxy_constraint import ProxyForm
from egup_trainer.modeling.outputs import AnswerOutputs

BOUNDARY = torch.tensor([2.0, 3.0, 4.0])
IDS, RETAIN_IDS = torch.tensor([2, 0]), torch.tensor([3, 0])
ANGLES = (2.3, 0.1)  # of forget rows 2 and 0, which were at 2 and 0 before unlearning
NLL = (4.1, 1.0)
BOTH = options(inter_entanglement=True, intra_entanglement=True)


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
    chosen = options(inter_entanglement=inter, intra_entanglement=intra)
    step = look(components_for(chosen, cache, BOUNDARY if proxy else None), outputs(), IDS, outputs(), RETAIN_IDS)
    if not (inter or intra or proxy):
        assert step.weights is None
        return
    expected = [1.0, 1.0]
    for is_on, factors in ((inter, inter_weights()), (intra, intra_weights()), (proxy, EFFORTS)):
        expected = [weight * factor if is_on else weight for weight, factor in zip(expected, factors, strict=True)]
    assert step.weights.tolist() == pytest.approx(expected, rel=3e-3)  # phi_0 is kept in float16
    assert not step.weights.requires_grad
    assert ("boundary_gap" in step.collected.rows) is proxy


def test_what_is_seen_of_features(cache, outputs, units):
    seen = look(components_for(options(), cache), outputs(), IDS, outputs((0.7, 0.8)), RETAIN_IDS).features
    assert seen.entanglement.tolist() == pytest.approx(ENTANGLEMENT, rel=1e-4)
    assert seen.drift.tolist() == pytest.approx(DRIFT, abs=1e-3)
    torch.testing.assert_close(seen.forget, units(*ANGLES))
    torch.testing.assert_close(seen.retain, units(0.7, 0.8))
    assert seen.forget.requires_grad  # CLReg learns through them
    assert seen.retain.requires_grad
    assert not seen.entanglement.requires_grad
    assert not seen.drift.requires_grad


def test_neighbors_temperatures_and_clip_are_heeded(cache, outputs):
    seen = look(components_for(options(inter_neighbors=2), cache), outputs(), IDS).features
    expected = [(cos(2.3 - 0.5) + cos(2.3 - 1.5)) / 2, (cos(0.1 - 0.5) + cos(0.1 - 1.5)) / 2]
    assert seen.entanglement.tolist() == pytest.approx(expected, rel=1e-4)
    assert seen.retain is None
    clipped = options(inter_entanglement=True, inter_clip_min=0.9, inter_clip_max=1.1)
    assert look(components_for(clipped, cache), outputs(), IDS).weights.max() <= 1.1
    hot = options(inter_entanglement=True, inter_temperature=1e6, intra_entanglement=True, intra_temperature=1e6)
    assert look(components_for(hot, cache), outputs(), IDS).weights.tolist() == pytest.approx([1, 1], abs=1e-4)


@pytest.fixture
def off_center(units):
    """A cache of the hidden states 2 * (cos a, sin a), for three forget rows and a bank that is centred by (1, 1)."""
    forget, retain = 2 * units(0.0, 1.0, 2.0), torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
    space, ids = FeatureSpace.fit(retain), torch.tensor([0, 1])
    return EmbeddingCache.build(forget, retain, ids, 4, space=space, neighbors=None, bank_size=3)


def test_centroid_entanglement_is_measured_on_features_that_are_not_centred(off_center, outputs):
    middle = pi / 4  # of (1, 1), the mean of the retain rows
    assert off_center.entanglement.tolist() == pytest.approx([cos(a - middle) for a in (0.0, 1.0, 2.0)], rel=1e-5)
    chosen = options(inter_entanglement=True, inter_match=InterMatch.CENTROID, inter_clip_min=0.0)
    step = look(components_for(chosen, off_center), outputs(), IDS, outputs(), RETAIN_IDS)
    seen = [cos(a - middle) for a in ANGLES]
    assert step.features.entanglement.tolist() == pytest.approx(seen, rel=1e-4)
    assert not step.features.entanglement.requires_grad
    mean = off_center.entanglement.mean().item()
    deviation = off_center.entanglement.std(correction=0).item()
    scale = sum(exp((e - mean) / deviation) for e in off_center.entanglement.tolist()) / 3
    expected = [exp((e - mean) / deviation) / scale for e in seen]
    assert step.weights.tolist() == pytest.approx(expected, rel=1e-3)
    assert step.weights[1] > step.weights[0]  # the row at 0.1 is nearer to the centroid than that at 2.3


def test_the_bank_has_no_say_in_centroid_entanglement(off_center, outputs):
    chosen = options(inter_entanglement=True, inter_match=InterMatch.CENTROID)
    before = look(components_for(chosen, off_center), outputs(), IDS).weights
    off_center.bank = -off_center.bank
    assert torch.equal(look(components_for(chosen, off_center), outputs(), IDS).weights, before)


@pytest.mark.parametrize(
    ("chosen", "negative", "expected"),
    [
        ({}, True, EFFORTS),
        ({"proxy_lambda": 0.5, "proxy_temperature": 1.0}, True, [1 - 0.5 * sigmoid(0.1), 1 - 0.5 * sigmoid(-1)]),
        ({}, False, [0, EFFORTS[1]]),
        ({"proxy_form": ProxyForm.PENALTY}, True, None),
    ],
    ids=["effort", "strength and temperature", "no negative weights", "penalty"],
)
def test_the_effort_follows_the_gap_from_each_rows_own_boundary(chosen, negative, expected, outputs):
    components = components_for(options(**chosen), boundary=BOUNDARY, supports_negative_weight=negative)
    step = look(components, outputs(), IDS)
    gap = step.latest("boundary_gap")
    assert gap.tolist() == pytest.approx([0.1, -1.0], abs=1e-5)
    assert not gap.requires_grad
    assert step.features is None
    assert EFFORTS[0] < 0
    assert step.weights is None if expected is None else step.weights.tolist() == pytest.approx(expected, abs=1e-4)


def test_observing_changes_no_state(cache, outputs):
    components = components_for(BOTH, cache, BOUNDARY)
    states = [{name: tensor.clone() for name, tensor in each.state_dict().items()} for each in components]
    first, again = (look(components, outputs(), IDS, outputs(), RETAIN_IDS).weights for _ in range(2))
    assert torch.equal(first, again)
    for component, state in zip(components, states, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in component.state_dict().items())


def test_a_checkpoint_brings_the_weights_back(cache, outputs, make_cache, tmp_path):
    components = components_for(BOTH, cache, BOUNDARY, supports_negative_weight=False)
    restored = components_for(BOTH, make_cache(forget=(0.3, 0.4, 0.5)), BOUNDARY + 1, supports_negative_weight=False)
    for index, (old, new) in enumerate(zip(components, restored, strict=True)):
        save_file(old.state_dict(), tmp_path / f"{index}.safetensors")
        new.load_state_dict(load_file(tmp_path / f"{index}.safetensors"))
        assert all(torch.equal(tensor, old.state_dict()[name]) for name, tensor in new.state_dict().items())
    now, then = (look(each, outputs(), IDS, outputs(), RETAIN_IDS).weights for each in (restored, components))
    assert torch.equal(now, then)
    assert now[0] == 0
