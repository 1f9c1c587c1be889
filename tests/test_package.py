"""What is installed: the wheel holds the package, public names are importable, versions are pinned."""

import configparser
import inspect
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import egup_trainer
from egup_trainer.extras import EXTRAS
from egup_trainer.trainer import Rows

ROOT = Path(__file__).resolve().parents[1]
HOME = "https://github.com/egup-trainer/egup_trainer"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of a wheel built from a copy of the source: setuptools would pack what an earlier build left behind."""
    folder, copy = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "egup_trainer", copy / "egup_trainer", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (
        path for path in (ROOT / "egup_trainer").rglob("*") if path.is_file() and path.parent.name != "__pycache__"
    )
    assert names == {str(path.relative_to(ROOT)) for path in files}


def test_the_package_works_from_the_wheel_alone(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import egup_trainer; from egup_trainer import EGUPTrainer, "
        "EGUPConfig, UnlearnTrainer, UnlearnConfig; print(egup_trainer.__file__)"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path / "site")], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == str(tmp_path / "site" / "egup_trainer" / "__init__.py")


def test_the_wheel_names_the_console_script_and_the_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "egup = egup_trainer.cli.main:main" in archive.read(entry).decode()
    assert any(name.endswith("LICENSE") for name in archive.namelist())


def test_the_wheel_has_types_the_version_and_a_readme_without_relative_links(wheel):
    import egup_trainer

    archive = zipfile.ZipFile(wheel)
    assert "egup_trainer/py.typed" in archive.namelist()
    (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
    assert f"\nVersion: {egup_trainer.__version__}\n" in metadata
    links = re.findall(r"\]\(([^)]*)\)", metadata)
    assert f"{HOME}/raw/main/docs/images/report.png" in links
    assert f"{HOME}/blob/main/docs/data.md" in links
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_changelog_begins_with_the_version():
    import egup_trainer

    first = re.findall(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[0]
    assert re.fullmatch(rf"{re.escape(egup_trainer.__version__)} \(\d{{4}}-\d{{2}}-\d{{2}}\)", first)


def requirements() -> list[str]:
    """What a bare installation needs, and the extras that `all` and `test` bring."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = parser["options.extras_require"]
    return [*parser["options"]["install_requires"].split(), *extras["all"].split(), *extras["test"].split()]


def test_requirements_have_lower_bounds_and_pins():
    assert all(re.fullmatch(r"[a-z\d\[\]-]+>=[\d.]+", requirement) for requirement in requirements())
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    assert {re.split(r"[\[>]", each)[0] for each in requirements()} <= set(re.findall(r"(?m)^([a-z\d-]+)==", pins))


def test_the_extras_bring_what_the_code_asks_for():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras, core = parser["options.extras_require"], parser["options"]["install_requires"]
    distributions = {"sklearn": "scikit-learn", "rouge_score": "rouge-score", "lm_eval": "lm-eval"}
    for extra, modules in EXTRAS.items():
        names = [distributions.get(module, module) for module in modules]
        assert sorted(re.findall(r"([a-z-]+)>=", extras[extra])) == sorted(names)
        assert not any(re.search(rf"(?m)^{name}>=", core) for name in names)


def test_public_names_are_all_there_and_sorted():
    import egup_trainer

    assert egup_trainer.__all__ == sorted(egup_trainer.__all__)
    assert set(egup_trainer.__all__) == set(egup_trainer._HOMES)
    for name in egup_trainer.__all__:
        assert getattr(egup_trainer, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = egup_trainer.nothing


def test_the_arguments_of_what_is_public_are_typed():
    for name in egup_trainer.__all__:
        parameters = inspect.signature(getattr(egup_trainer, name)).parameters.values()
        assert not [each.name for each in parameters if each.annotation is each.empty], name
    for trainer in (egup_trainer.UnlearnTrainer, egup_trainer.EGUPTrainer):
        parameters = inspect.signature(trainer).parameters
        assert not [name for name, each in parameters.items() if each.annotation is Any]
        assert parameters["forget_dataset"].annotation == Rows | None


def test_no_code_of_a_model_is_trusted_unasked():
    files = [*(ROOT / "egup_trainer").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    assert [path for path in files if "trust_remote_code=True" in path.read_text(encoding="utf-8")] == []
