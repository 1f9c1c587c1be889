"""CLReg, of any unit vectors and temperatures."""

from math import log

import pytest
import torch
from fixtures_properties import draw_order, units
from hypothesis import given
from hypothesis import strategies as st

from egup_trainer.components.clreg import contrastive_loss, retain_anchor_loss

TEMPERATURES = st.sampled_from([0.001, 0.05, 0.2, 1.0, 50.0])


@st.composite
def contrasts(draw):
    """Anchors, positives, whose positives they are, negatives and a temperature."""
    rows, positives, negatives = draw(st.integers(1, 4)), draw(st.integers(0, 4)), draw(st.integers(1, 4))
    flags = draw(st.lists(st.booleans(), min_size=rows * positives, max_size=rows * positives))
    mask = torch.tensor(flags, dtype=torch.bool).view(rows, positives)
    return draw(units(rows)), draw(units(positives)), mask, draw(units(negatives)), draw(TEMPERATURES)


def read(anchors, *others):
    """Values and the anchors' gradients."""
    anchors = anchors.clone().requires_grad_()
    values = contrastive_loss(anchors, *others)
    return values.detach(), torch.autograd.grad(values.sum(), anchors)[0]


@given(contrasts())
def test_values_are_finite_and_never_negative_and_0_without_positives(contrast):
    has_none = ~contrast[2].any(dim=1)
    for found in read(*contrast):
        assert found.isfinite().all()
        assert not found[has_none].any()
    assert (read(*contrast)[0] >= -1e-4 / contrast[-1]).all()  # float32 of cosines / temperature


@given(contrasts(), units(2), st.data())
def test_an_anchor_has_its_value_in_any_company_and_order(contrast, others, data):
    anchors, positives, mask, negatives, temperature = contrast
    positives = torch.cat([positives, others])  # which are nobody's
    mask = torch.cat([mask, torch.zeros(len(anchors), 2, dtype=torch.bool)], dim=1)
    rows, first, second = (draw_order(data, each) for each in (anchors, positives, negatives))
    mixed = read(anchors[rows], positives[first], mask[rows][:, first], negatives[second], temperature)
    alone = [read(anchors[[row]], positives, mask[[row]], negatives, temperature) for row in rows.tolist()]
    for found, singly, expected in zip(mixed, zip(*alone, strict=True), read(*contrast), strict=True):
        for each in (found, torch.cat(singly)):
            torch.testing.assert_close(each, expected[rows], rtol=1e-4, atol=1e-4 / temperature)


@given(st.integers(1, 5), st.integers(1, 5), TEMPERATURES)
def test_where_all_features_are_one_the_value_is_the_log_of_their_number(positives, negatives, temperature):
    one = torch.tensor([[0.6, 0.8]])
    mask = torch.ones(1, positives, dtype=torch.bool)
    values, _ = read(one, one.expand(positives, 2), mask, one.expand(negatives, 2), temperature)
    assert values.item() == pytest.approx(log(positives + negatives), abs=2e-4 / min(temperature, 1))


@given(st.integers(1, 4).flatmap(lambda rows: st.tuples(units(rows), units(rows))), st.data())
def test_retain_anchors_are_between_0_and_2_row_by_row(features, data):
    now, before = features[0].requires_grad_(), features[1]
    values = retain_anchor_loss(now, before)
    assert ((values > -1e-6) & (values < 2 + 1e-6)).all()
    order = draw_order(data, now)
    assert torch.equal(retain_anchor_loss(now[order], before[order]), values[order])
    assert torch.equal(torch.autograd.grad(values.sum(), now)[0], -before)
