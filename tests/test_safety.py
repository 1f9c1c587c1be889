"""No door: nothing of the package runs code from files, unpickles, or trusts remote code by itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "egup_trainer").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
FORBIDDEN_CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "np.load", "numpy.load"}
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def faults(code: str) -> list[str]:
    """What a file does that it must not, by line."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if ast.unparse(node) == "from pickle import UnpicklingError":  # what torch raises where it refuses to unpickle
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            found += [f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {each.arg: ast.unparse(each.value) for each in node.keywords}
            is_bad = (
                name in FORBIDDEN_CALLS or options.get("shell") == "True" or options.get("trust_remote_code") == "True"
            )
            is_bad |= name == "torch.load" and options.get("weights_only") != "True"
            found += [f"{node.lineno}: {name}"] if is_bad else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_opens_a_door(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from dill import loads",
        "from pickle import UnpicklingError, loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load(name, trust_remote_code=True)",
        "subprocess.run(line, shell=True)",
        "eval(text)",
        "yaml.load(text)",
    ],
)
def test_the_rule_itself(code):
    assert len(faults(code)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "from pickle import UnpicklingError",
        "torch.load(path, weights_only=True)",
        "load(name, trust_remote_code=asked)",
        "yaml.safe_load(text)",
    ],
)
def test_the_rule_lets_through_what_is_safe(code):
    assert faults(code) == []
