"""The command line's own promise: whatever happens in a command, one line says it, and says how to see more."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from egup_trainer.cli import main as command_line
from egup_trainer.cli.main import main
from egup_trainer.errors import DataError


@pytest.fixture
def fails(monkeypatch):
    """fails(error): exit code of a command that raises it."""

    def run(error):
        def command(argv):
            raise error

        monkeypatch.setattr(command_line, "load_command", lambda name: SimpleNamespace(main=command))
        return main(["env"])

    monkeypatch.delenv("EGUP_TRACEBACK", raising=False)
    return run


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(fails, capsys):
    assert fails(OverflowError("Too large:\n  10\n  11")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("egup env: error: Got an unexpected OverflowError (Too large: 10). ")
    assert "EGUP_TRACEBACK=1" in line


def test_a_full_memory_is_no_fault_of_the_program(fails, capsys):
    assert fails(MemoryError()) == 1
    assert "expected enough memory. Lower the batch size" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OverflowError("10"), DataError(got="a", expected="b", fix="c")])
def test_who_looks_for_a_fault_gets_the_traceback(fails, monkeypatch, error):
    monkeypatch.setenv("EGUP_TRACEBACK", "1")
    with pytest.raises(type(error)):
        fails(error)


def test_other_processes_leave_the_word_to_the_first_and_are_named(fails, monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(command_line.time, "sleep", waited.append)
    for rank in ("0", "3"):
        monkeypatch.setenv("RANK", rank)
        assert fails(DataError(got="a", expected="b", fix="c")) == 2
    says = "error: Got a, but expected b. C."
    assert capsys.readouterr().err == f"egup env: {says}\negup env (process 3): {says}\n"
    assert len(waited) == 1


def test_an_error_of_a_destructor_is_not_printed_below_the_line(monkeypatch, capsys):
    """Loggers of transformers are left half-made where their package is missing."""

    class HalfMade:
        def __init__(self):
            raise RuntimeError("no package")

        def __del__(self):
            raise AttributeError("never made")

    monkeypatch.setattr(command_line, "load_command", lambda name: SimpleNamespace(main=lambda argv: HalfMade()))
    hook = sys.unraisablehook
    assert main(["env"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert sys.unraisablehook is hook


def test_a_reader_that_goes_is_no_error():
    """As in `egup --help | head -1`."""
    command = [sys.executable, "-m", "egup_trainer.cli.main", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()
        said = run.stderr.read()
    assert (run.returncode, said) == (141, "")
