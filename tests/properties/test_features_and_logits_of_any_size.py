"""Metrics of features and of whole distributions, of any numbers: in their range or with a reason."""

import numpy as np
import pytest
import torch
from fixtures_properties import FAR, LONG_TAILED, draw_order, tensors
from hypothesis import given, note, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from egup_trainer.evaluation.metrics import representation
from egup_trainer.evaluation.token_numbers import standardise

FEATURES = st.integers(1, 5).flatmap(
    lambda rows: arrays(np.float32, (rows, 3), elements=st.floats(-FAR, FAR, width=32))
)
OF_BOTH = {"ratio": (representation.variance_ratio, np.inf), "overlap": (representation.overlap, 1)}
SAME = 1e-6


def value_of(metric, rows):
    """The value, which is None just where there is a reason; each of the rows is counted."""
    assert (metric.value is None) == (metric.reason is not None)
    assert metric.num_samples == (0 if metric.value is None else rows)
    return metric.value


def same(value):
    """The value, or one near it."""
    return None if value is None else pytest.approx(value, rel=SAME, abs=SAME)


@given(FEATURES, FEATURES, st.data())
def test_metrics_of_both_sets_have_their_range_and_ignore_the_order(forget, retain, data):
    mixed = [rows[draw_order(data, rows).numpy()] for rows in (forget, retain)]
    for name, (metric, most) in OF_BOTH.items():
        note(name)
        found = value_of(metric(forget, retain), len(forget) + len(retain))
        assert found is None or -SAME <= found <= most * (1 + SAME)
        assert metric(*mixed).value == same(found)
        assert metric(retain, forget).value == same(found)


@given(FEATURES)
def test_a_set_beside_itself(features):
    ratio, overlap = (metric(features, features) for metric, _ in OF_BOTH.values())
    assert ratio.value is None
    assert "the same mean" in ratio.reason
    assert overlap.value is None or overlap.value == pytest.approx(1)
    kernels = representation.centred_kernel_alignment(features, features)
    assert kernels.value is None or kernels.value == pytest.approx(1)
    is_one_point = (np.ptp(features, axis=0) == 0).all()
    assert (overlap.value is None) == is_one_point
    assert (kernels.value is None) == (is_one_point or len(features) < 3)  # of two rows it is 1 whatever they are


@given(FEATURES, st.data())
def test_metrics_against_the_initial_model(features, data):
    before = data.draw(arrays(np.float32, features.shape, elements=LONG_TAILED))
    order = draw_order(data, features).numpy()
    for metric, most in ((representation.centred_kernel_alignment, 1), (representation.retain_shift, 2)):
        found = metric(features, before)
        assert found.num_samples + found.num_skipped == len(features) or found.value is None
        assert found.value is None or -SAME <= found.value <= most + SAME
        assert metric(features[order], before[order]).value == same(found.value)


@settings(max_examples=12)
@given(st.sampled_from([5, 10]), st.integers(0, 9), st.sampled_from([0.0, 1e-4, 1.0, FAR]))
def test_a_probe_finds_nothing_in_identical_rows_and_all_in_sets_far_apart(rows, seed, spread):
    """Of rows that five folds divide: else folds differ in how many rows of a set they have, and so their probes."""
    drawn = np.random.default_rng(seed).normal(size=(2, rows, 3)).astype(np.float32)
    identical = representation.probe_auc(0 * drawn[0], 0 * drawn[1])
    assert identical.value == 0.5
    apart = representation.probe_auc(spread * drawn[0], spread * drawn[1] + 100 * max(spread, 1e-4))
    assert apart.value == 1.0


@st.composite
def positions(draw):
    """Logits, and a token at each."""
    logits = draw(st.tuples(st.integers(1, 5), st.integers(2, 6)).flatmap(lambda shape: tensors(*shape)))
    tokens = draw(st.lists(st.integers(0, logits.shape[1] - 1), min_size=len(logits), max_size=len(logits)))
    return logits, torch.tensor(tokens)


def z_of(logits, tokens):
    return standardise(logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1), logits)


@given(positions(), st.data())
def test_z_is_finite_and_each_positions_own_whatever_the_order_of_the_vocabulary(drawn, data):
    logits, tokens = drawn
    z = z_of(logits, tokens)
    assert z.isfinite().all()
    vocabulary = draw_order(data, logits[0])
    near = {"rtol": 1e-3, "atol": 1e-2}  # where sigma is 1e-3, rounding of 1e-5 counts a thousandfold
    torch.testing.assert_close(z_of(logits[:, vocabulary], vocabulary.argsort()[tokens]), z, **near)
    alone = [z_of(logits[[index]], tokens[[index]]) for index in range(len(logits))]
    torch.testing.assert_close(torch.cat(alone), z, **near)


@given(st.integers(2, 9), st.floats(-FAR, FAR, width=32))
def test_where_all_tokens_are_equally_likely_each_is_as_expected(size, value):
    z = z_of(torch.full((1, size), value), torch.tensor([size - 1]))
    assert z.item() == pytest.approx(0, abs=2e-3)
