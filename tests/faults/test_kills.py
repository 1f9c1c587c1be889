"""A run that is killed and resumed ends as if it had not been, bit by bit: a few of the kills of kills.py."""

import pytest
from kills import differing, ending, kill_and_resume, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    run(folder, "bases")
    return folder


@pytest.mark.parametrize(
    ("kind", "shares"), [("two processes", [0.4]), pytest.param("early stop", [0.3, 0.1], marks=pytest.mark.slow)]
)
def test_a_killed_run_ends_as_if_it_had_not_been(folder, kind, shares):
    seconds = run(folder / kind / "whole", kind)
    left = kill_and_resume(folder / kind / "cut", kind, [share * seconds for share in shares])
    expected, found = ending(folder / kind / "whole"), ending(folder / kind / "cut")
    assert expected["steps"] == (5 if kind == "early stop" else 12)  # of 20
    assert left  # else nothing was resumed
    assert differing(expected, found) == []
