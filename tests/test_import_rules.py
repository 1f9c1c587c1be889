"""Who may import whom (the contracts in pyproject.toml), and that the label mask is written in one place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "egup_trainer"
FORWARD = PACKAGE / "modeling" / "forward.py"


def test_imports_keep_the_contracts():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def comparisons_with_the_mask(code: str) -> list[str]:
    """Comparisons with the ignored label, and -100 written as a number."""

    def is_mask(node: ast.expr) -> bool:
        return ast.unparse(node).rpartition(".")[2] in ("IGNORE_INDEX", "-100")

    nodes = list(ast.walk(ast.parse(code)))
    compares = (node for node in nodes if isinstance(node, ast.Compare))
    found = [node for node in compares if any(map(is_mask, [node.left, *node.comparators]))]
    found += [node for node in nodes if isinstance(node, ast.UnaryOp) and is_mask(node)]
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in found]


# data is below modeling and cannot call it; it compares only to refuse rows in which nothing is scored.
@pytest.mark.parametrize(
    "path", sorted({*PACKAGE.rglob("*.py")} - {*(PACKAGE / "data").rglob("*.py"), FORWARD}), ids=str
)
def test_the_label_mask_is_in_one_function(path):
    assert comparisons_with_the_mask(path.read_text(encoding="utf-8")) == []


def test_the_forward_pass_compares_once_with_the_mask():
    assert len(comparisons_with_the_mask(FORWARD.read_text(encoding="utf-8"))) == 1
    assert len(comparisons_with_the_mask("a == -100")) == 2
