"""The GitHub workflow runs what the Makefile has, on every Python that setup.cfg names."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def jobs():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]


def commands_of(job):
    written = [step["run"] for step in job["steps"] if "run" in step]
    cases = job.get("strategy", {}).get("matrix", {}).get("include", [{}])
    return [text.replace("${{ matrix.command }}", case.get("command", "")) for case in cases for text in written]


def test_tests_run_on_every_python(jobs):
    cases = jobs["test"]["strategy"]["matrix"]["include"]
    assert [case["python"] for case in cases] == ["3.10", "3.11", "3.12", "3.13"]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options"]["python_requires"] == f">={cases[0]['python']}"
    (version,) = (step["with"] for step in jobs["test"]["steps"] if "setup-python" in step.get("uses", ""))
    assert version["python-version"] == "${{ matrix.python }}"


def test_every_command_is_a_target_of_the_makefile(jobs):
    targets = set(re.findall(r"(?m)^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    commands = [command for job in jobs.values() for command in commands_of(job)]
    assert {"make test PYTHON=python", "make test-oldest PYTHON=python", "make check PYTHON=python"} == set(commands)
    assert {command.split()[1] for command in commands} <= targets


def test_types_and_lint_are_part_of_the_check(jobs):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    check = makefile.split("\ncheck:")[1].split("\n\n")[0]
    assert " lint " in check
    assert "mypy" in check
