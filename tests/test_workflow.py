"""The GitHub workflows run what the Makefile has; the tests run on every Python that setup.cfg names."""

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


WORKFLOWS = ROOT / ".github" / "workflows"
TARGETS = set(re.findall(r"(?m)^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8")))


def jobs_of(name):
    return yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text(encoding="utf-8"))["jobs"]


@pytest.fixture(scope="module")
def jobs():
    return jobs_of("tests")


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
    commands = [command for job in jobs.values() for command in commands_of(job)]
    wanted = ("make test", "make test-slow", "make test-oldest", "make check")
    assert {f"{command} PYTHON=python" for command in wanted} == set(commands)
    assert {command.split()[1] for command in commands} <= TARGETS


def test_types_and_lint_are_part_of_the_check(jobs):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    check = makefile.split("\ncheck:")[1].split("\n\n")[0]
    assert " lint " in check
    assert "mypy" in check


@pytest.mark.parametrize(
    ("name", "command"),
    [("docs", "make notebooks docs PYTHON=python"), ("release", "make test release-check PYTHON=python")],
)
def test_docs_and_releases_are_built_by_targets_of_the_makefile(name, command):
    jobs = jobs_of(name)
    assert command in commands_of(jobs["build"])
    assert set(command.split()[1:-1]) <= TARGETS
    assert jobs["publish"]["needs"] == "build"  # nothing is published that was not built and tested


def test_a_release_is_checked_as_pypi_will_show_it_and_used_from_an_empty_environment():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nrelease-check:")[1].split("\n\n")[0]
    steps = [
        "-m build",
        "twine check --strict dist/*",
        "-m venv",
        "dist/*.whl",
        "bin/egup --help",
        "[all]",
        "bin/egup demo",
    ]
    places = [recipe.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)


def test_only_the_job_that_publishes_may_write():
    for path in WORKFLOWS.glob("*.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {"contents": "read"}
        assert [name for name, job in workflow["jobs"].items() if "permissions" in job] in ([], ["publish"])


def test_a_tag_that_is_not_the_version_is_not_released(tmp_path):
    (check,) = (step["run"] for step in jobs_of("release")["build"]["steps"] if "name" in step)
    version = re.search(r'__version__ = "(.*)"', (ROOT / "egup_trainer" / "__init__.py").read_text()).group(1)
    for tag, code in ((f"v{version}", 0), ("v9.9.9", 1)):
        done = subprocess.run(["bash", "-c", check], cwd=ROOT, env={"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag})
        assert done.returncode == code
