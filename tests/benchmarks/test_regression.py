"""Recorded runs: the comparison finds what differs, and today's code gives the committed numbers."""

import pytest
import torch

from benchmarks.regression import CASES, TABLE, compare, differences, fingerprint
from benchmarks.tables import read_table
from egup_trainer.losses.registry import OBJECTIVES

LINE = {"logged": {"loss": [1.0, 2.0]}, "weights": {"w": fingerprint(torch.arange(20.0))}}


def test_differences_are_shares_of_the_largest_value_of_their_series():
    moved = {"logged": {"loss": [1.0, 2.002]}, "weights": {"w": fingerprint(torch.arange(20.0) * 1.5)}}
    assert set(differences(LINE, LINE).values()) == {0.0}
    assert differences(LINE, moved)["loss"] == pytest.approx(0.001, rel=1e-2)
    assert differences(LINE, moved)["w.norm"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("logged", [{}, {"loss": [1.0]}, {"loss": [1.0, 2.0], "new": [0.0]}])
def test_a_missing_or_new_series_differs(logged):
    assert max(differences(LINE, {**LINE, "logged": logged}).values()) == float("inf")


def test_every_objective_is_recorded():
    assert set(read_table(TABLE)) == set(CASES)
    assert {case.options["objective"] for case in CASES.values()} == set(OBJECTIVES)


@pytest.mark.slow
def test_the_code_gives_the_recorded_numbers():
    assert compare(TABLE, list(CASES), tolerance=1e-3) == {}  # another CPU may add in another order
