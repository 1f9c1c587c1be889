"""Every forget and retain loss, of any rows: finite, and each row's value and gradient its own."""

from dataclasses import replace

import torch
from fixtures_properties import answer_rows, join
from hypothesis import given, note, settings
from hypothesis import strategies as st

from egup_trainer.losses.npo import NPO
from egup_trainer.losses.proxy_kl import ProxyKL
from egup_trainer.losses.registry import OBJECTIVES, RETAIN_LOSSES
from egup_trainer.losses.retain_losses import RetainKL
from egup_trainer.losses.satimp import SatImp
from egup_trainer.losses.simnpo import SimNPO
from egup_trainer.losses.wga import WGA
from egup_trainer.modeling.reference import Need

FORGET = {name: loss() for name, loss in OBJECTIVES.items()} | {
    "npo, strong": NPO(beta=50.0),
    "npo, per token": NPO(beta=None).for_boundary(needed_rise=0.01),
    "simnpo, margin": SimNPO(beta=0.01, delta=100.0),
    "wga, beta 0": WGA(beta=0.0),
    "satimp, roots": SatImp(beta1=0.5, beta2=0.5),
    "proxy_kl, sharp": ProxyKL(effort=10.0, temperature=0.01),
}
RETAIN = {name: (loss(), None) for name, loss in RETAIN_LOSSES.items() if loss} | {
    "kl of 1": (RetainKL(), 1),
    "kl of 3": (RetainKL(), 3),
}
EXPECTED = {name for name, loss in FORGET.items() if Need.EXPECTED in loss.needs}
LOSSES = {**{name: (loss, 2 if name in EXPECTED else None) for name, loss in FORGET.items()}, **RETAIN}


def read(name, rows):
    """Values of rows in one batch, and their gradients by row."""
    note(name)
    loss, top_k = LOSSES[name]
    joined = join(rows, top_k, name in EXPECTED)
    values = loss(joined.outputs, joined.reference)
    return values.detach(), joined.gradients(values)


@given(rows=answer_rows())
def test_values_and_gradients_are_finite(rows):
    for name in LOSSES:
        values, gradients = read(name, rows)
        assert values.shape == (len(rows),)
        assert values.isfinite().all()
        assert all(each.isfinite().all() for row in gradients for each in row)


@settings(max_examples=40)
@given(rows=answer_rows(), data=st.data())
def test_a_row_has_its_value_and_gradient_in_any_company_and_order(rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    for name in LOSSES:
        values, gradients = read(name, [rows[index] for index in order])
        for value, found, index in zip(values, gradients, order, strict=True):
            alone, expected = read(name, [rows[index]])
            torch.testing.assert_close(value, alone[0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found, expected[0], rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(rows=answer_rows(), data=st.data())
def test_the_parts_of_a_joined_batch_are_the_batches_of_the_parts(rows, data):
    first = data.draw(st.integers(0, len(rows)))
    sizes = [first, len(rows) - first]
    for name, (loss, top_k) in LOSSES.items():
        note(name)
        whole = join(rows, top_k, name in EXPECTED)
        values = loss(whole.outputs, whole.reference).split(sizes)
        cuts, alternates = whole.outputs.split(sizes), whole.outputs.alternate.split(sizes)
        for cut, alternate, part, expected in zip(cuts, alternates, [rows[:first], rows[first:]], values, strict=True):
            if part:
                found = loss(replace(cut, alternate=alternate), join(part, top_k, name in EXPECTED).reference)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(rows=answer_rows(least=1))
def test_a_filler_changes_no_row_and_has_no_gradient(rows):
    tokens = {name: value[:0] for name, value in vars(rows[0]).items() if name != "alternate_nll"}
    filler = replace(rows[0], **tokens, alternate_nll=0.0)
    for name in LOSSES:
        values, gradients = read(name, [*rows, filler])
        expected, others = read(name, rows)
        torch.testing.assert_close(values[:-1], expected)
        torch.testing.assert_close(gradients[:-1], others)
        assert values[-1].isfinite()
        assert not any(each.any() for each in gradients[-1])


@given(rows=answer_rows())
def test_a_retain_loss_is_never_below_its_aim_where_a_model_that_has_not_moved_is(rows):
    still = [replace(row, before=row.logits, hidden_before=row.hidden) for row in rows]
    for name in RETAIN:
        assert (read(name, rows)[0] >= -1e-3).all()  # a divergence is a sum of terms of both signs
        if name != "nll":
            values, gradients = read(name, still)
            torch.testing.assert_close(values, torch.zeros(len(rows)), rtol=0, atol=1e-3)
            assert all(each.abs().max() < 1e-5 for row in gradients for each in row if each.numel())
