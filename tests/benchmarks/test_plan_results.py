"""What docs/scaling.md says of estimates, against the committed results."""

import pytest

from benchmarks import plan
from egup_trainer.planning.plan import MARGIN


def test_every_case_was_run_and_is_within_the_margin():
    cases = plan.RESULTS.read()["cases"]
    assert cases.keys() == plan.CASES.keys()
    for found in cases.values():
        assert found["ratio"] == pytest.approx(found["estimated_gb"] / found["measured_gb"])
        assert abs(found["ratio"] - 1) <= MARGIN


def test_the_page_shows_the_committed_results():
    assert plan.table() in plan.PAGE.read_text(encoding="utf-8")
