"""Forget quality without a retrained model: truth ratios of forget rows against those of holdout rows."""

import numpy as np
import pytest

from egup_trainer.evaluation.metric_registry import Measured, declaration_of
from egup_trainer.evaluation.scores import RowRole, SampleScores, SetScores, SetUse, TextScores


def text(nll):
    return TextScores(np.array([-nll]), np.array([False]))


def rows(name, role, nlls, wrong=3.0):
    """Rows whose right answer has these l, and whose wrong answer has `wrong`; None for no wrong answer."""
    perturbed = () if wrong is None else (text(wrong),)
    samples = {sample: SampleScores((text(nll),), perturbed=perturbed) for sample, nll in enumerate(nlls)}
    return SetScores(name, samples, use=SetUse(role))


def value(forget, holdout):
    sets = {each.name: each for each in (forget, holdout) if each is not None}
    spec, _ = declaration_of("forget_quality_by_holdout")
    return spec.compute(Measured({}, {}, {name: len(each) for name, each in sets.items()}, sets))


def test_known_rows_are_told_from_holdout_rows_and_forgotten_ones_are_not():
    holdout = rows("holdout", RowRole.UNSEEN, [2.8, 3.0, 3.2, 3.4])
    known = value(rows("forget", RowRole.FORGET, [0.1, 0.2, 0.3, 0.4]), holdout)
    assert known.value == pytest.approx(2 / 70)  # no overlap: 2 of the C(8, 4) orders
    assert value(rows("forget", RowRole.FORGET, [2.8, 3.0, 3.2, 3.4]), holdout).value == 1.0
    assert (known.higher_is_better, known.num_samples, known.values) == (True, 4, {})


def test_without_holdout_rows_or_their_wrong_answers_there_is_a_reason():
    forget = rows("forget", RowRole.FORGET, [1.0, 2.0, 3.0, 4.0])
    assert value(forget, None).reason == "no holdout rows (rows of the same kind that the model never saw)"
    bare = value(forget, rows("holdout", RowRole.UNSEEN, [1.0] * 4, wrong=None))
    assert (bare.value, bare.reason) == (None, "no holdout row has wrong answers")
    few = value(forget, rows("holdout", RowRole.UNSEEN, [1.0]))
    assert few.reason.startswith("too few rows: for 4 and 1 truth ratios")
