"""The committed notebooks have no outputs, working links, and compute no losses or metrics themselves."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLAB = "https://colab.research.google.com/github/egup-trainer/egup_trainer/blob/main/notebooks"
FORBIDDEN = {
    *("loss", "criterion", "backward", "cross_entropy", "kl_div", "nll_loss", "softmax", "log_softmax"),
    *("exp", "log", "log1p", "log2", "log10", "sigmoid", "logsigmoid", "mean", "sum", "std", "var", "norm"),
    *("cosine_similarity", "matmul", "dot", "einsum", "ks_2samp", "roc_auc_score", "rouge_score"),
    *("functional", "ForgetLoss"),
}
"""Names of which losses and metrics are made."""

every_notebook = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def cells(path: Path, kind: str) -> list[dict]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def text(cell: dict) -> str:
    return "".join(cell["source"])


def computed(source: str) -> set[str]:
    """Arithmetic in a cell, except on paths and with constants, and names from FORBIDDEN."""
    found, names = set(), set()
    for node in ast.walk(ast.parse(re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.M))):
        if isinstance(node, ast.BinOp) and not is_harmless(node):
            found.add(type(node.op).__name__)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            names |= {part for name in imported for part in name.split(".")}
    return found | (names & FORBIDDEN)


def is_harmless(node: ast.BinOp) -> bool:
    if isinstance(node.op, ast.Div):  # folder / "name"
        return isinstance(node.right, ast.JoinedStr) or isinstance(getattr(node.right, "value", None), str)
    if isinstance(node.op, ast.Add | ast.Sub | ast.FloorDiv | ast.Mod):  # an index, or the margin of an axis
        return any(isinstance(side, ast.Constant) for side in (node.left, node.right))
    return isinstance(node.op, ast.BitOr)


def test_the_five_notebooks_exist():
    assert [path.stem for path in PATHS] == [
        "evaluation_and_audit",
        "own_data",
        "quickstart",
        "seen_from_inside",
        "tofu_lora_4bit",
    ]


@every_notebook
def test_no_outputs_are_committed(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    assert document["nbformat_minor"] >= 5
    assert document["metadata"]["kernelspec"] == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    for cell in cells(path, "code"):
        assert (cell["outputs"], cell["execution_count"], cell["metadata"]) == ([], None, {})
    ids = [cell["id"] for cell in document["cells"]]
    assert len(set(ids)) == len(ids)


@every_notebook
def test_the_badge_opens_this_notebook(path):
    first = text(cells(path, "markdown")[0])
    assert re.findall(r"\]\((https://colab\.research\.google\.com/github/.*?)\)", first) == [f"{COLAB}/{path.name}"]


@every_notebook
def test_links_lead_to_notebooks_that_exist(path):
    links = {link for cell in cells(path, "markdown") for link in re.findall(r"\]\(([^):]+)\)", text(cell))}
    assert {link for link in links if not (path.parent / link).is_file()} == set()


@every_notebook
def test_the_first_cell_installs_only_on_colab(path, monkeypatch):
    first, *others = [text(cell) for cell in cells(path, "code")]
    source = re.sub(r"^(\s+)%pip (.*)$", r"\1installed.append('''\2''')", first, flags=re.M)
    installed: list[str] = []
    exec(compile(source, path.name, "exec"), {"installed": installed})
    assert installed == []
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    exec(compile(source, path.name, "exec"), {"installed": installed})
    assert len(installed) == 1
    assert "egup-trainer[notebooks]" in installed[0]
    assert not any("pip" in re.findall(r"^\s*[%!](\w+)", other, flags=re.M) for other in others)


@every_notebook
def test_no_notebook_computes_losses_or_metrics(path):
    found = {index: names for index, cell in enumerate(cells(path, "code")) if (names := computed(text(cell)))}
    assert found == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def npo(logps):\n    return -(2 / 0.1) * logps", {"Div", "Mult"}),
        ("values = -torch.nn.functional.logsigmoid(x)", {"functional", "logsigmoid"}),
        ("from torch.nn.functional import cross_entropy", {"functional", "cross_entropy"}),
        ("quality = (a - b) ** 2", {"Sub", "Pow"}),
        ("accuracy = hits.mean()", {"mean"}),
        ("class Mine(ForgetLoss):\n    pass", {"ForgetLoss"}),
        ("path = folder / 'forget.jsonl'\nlast = len(rows) - 1", set()),
    ],
)
def test_what_counts_as_computing(source, names):
    assert computed(source) == names
