"""The house rules of the architecture, read from the source: who may import whom, and how long things are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "egup_trainer"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
BELOW_THE_TRAINER = {"data", "modeling", "losses", "components", "options", "records", "errors", "files"}
CONFIG = BELOW_THE_TRAINER | {"config_checks", "config"}
TRAINER = CONFIG | {"callbacks", "conditions", "checkpointing", "loaders", "output_folder", "preparation", "publishing"}
TRAINER |= {"setup_check", "trainer", "egup"}
EVERYTHING = TRAINER | {
    "evaluation",
    "audit",
    "report",
    "demo",
    "cli",
    "planning",
    "proxies",
    "model_card",
    "typed",
    "",
}
MAY_IMPORT = {  # besides itself; "" is the package's own __init__, with its public names
    "errors": set(),
    "files": {"errors"},
    "records": {"data.tokenization", "modeling.base_weights", "errors", "files"},
    "model_card": {"records"},
    "data": {"errors", "files"},
    "modeling": {"data", "errors", "files"},
    "options": {"errors"},
    "losses": {"modeling", "data.schema", "options", "errors", "files"},
    "components": {"data", "modeling", "losses", "options", "records.judgments", "errors", "files"},
    "callbacks": {"data", "modeling", "components", "records.judgments", "errors", "files"},
    "config_checks": {"errors"},
    "config": BELOW_THE_TRAINER | {"config_checks"},
    "loaders": {"data", "errors"},
    "conditions": {"data", "modeling", "components", "errors", "files"},
    "output_folder": {"records", "errors", "files"},
    "setup_check": CONFIG,
    "preparation": CONFIG,
    "checkpointing": CONFIG | {"conditions", "output_folder"},
    "publishing": CONFIG | {"checkpointing"},
    "trainer": TRAINER - {"egup"},
    "egup": CONFIG | {"trainer"},
    "planning": TRAINER,
    "proxies": {"data", "modeling", "components.feature_space", "errors", "files"},
    "evaluation": {"data", "modeling", "typed", "errors", "files"},
    "audit": {"data", "modeling", "evaluation", "typed", "errors", "files"},
    "report": {"evaluation", "audit", "records.judgments", "errors", "files"},
    "demo": EVERYTHING - {"cli"},
    "cli": EVERYTHING,
    "__main__": EVERYTHING,
    "": EVERYTHING - {"cli", "demo"},
}
MAX_FUNCTION_LINES = 80
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_of(path: Path) -> str:
    """Dotted name below the package: "" for its __init__, "data.schema" for data/schema.py."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def modules() -> set[str]:
    return {module_of(path) for path in FILES}


def imported_by(tree: ast.Module, path: Path) -> set[str]:
    """Full names of all that a file imports, wherever the import stands: in functions and for type checkers, too."""
    package = [PACKAGE, *path.relative_to(ROOT / PACKAGE).parent.parts]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            # `from package import name` may name a module of the package.
            names |= {f"{source}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return names


def own_module(name: str) -> str | None:
    """The module of the package that an imported name belongs to, or None for another package."""
    first, _, rest = name.partition(".")
    if first != PACKAGE:
        return None
    while rest and rest not in modules():
        rest = rest.rpartition(".")[0]
    return rest


def is_allowed(importer: str, imported: str) -> bool:
    home, target = importer.partition(".")[0], imported.partition(".")[0]
    if home == target:
        return True
    allowed = MAY_IMPORT[home]
    return target in allowed or imported in allowed


@each_file
def test_imports_go_one_way(path):
    importer = module_of(path)
    assert importer.partition(".")[0] in MAY_IMPORT, f"no rule says what {importer} may import"
    found = {own_module(name) for name in imported_by(parse(path), path)} - {None}
    assert sorted(name for name in found if not is_allowed(importer, name)) == []


@each_file
def test_nothing_imports_what_stands_outside(path):
    outside = {"benchmarks", "notebooks", "tests"}
    assert {name.partition(".")[0] for name in imported_by(parse(path), path)} & outside == set()


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("losses.retain", "components.step", False),
        ("components.step", "trainer", False),
        ("losses.base", "data.schema", True),
        ("losses.base", "data.collator", False),
        ("losses.base", "losses.npo", True),
        ("evaluation.scores", "config", False),
        ("audit.relearning", "config", False),
        ("evaluation.run", "audit.run", False),
        ("config", "cli.main", False),
        ("demo", "cli", False),
        ("data.sources", "modeling.forward", False),
        ("modeling.scan", "", False),
    ],
)
def test_the_rule_itself(importer, imported, expected):
    assert is_allowed(importer, imported) is expected


def test_all_kinds_of_imports_are_seen():
    code = """
import egup_trainer.losses.npo
from . import forward
from ..components.step import Step
from egup_trainer import errors
def late():
    from egup_trainer import config
    import_module("egup_trainer.cli")
"""
    found = imported_by(ast.parse(code), ROOT / PACKAGE / "modeling" / "new.py")
    assert found == {
        "egup_trainer.losses.npo",
        "egup_trainer.modeling.forward",
        "egup_trainer.components.step.Step",
        "egup_trainer.errors",
        "egup_trainer.config",
        "egup_trainer.cli",
    }
    assert own_module("egup_trainer.components.step.Step") == "components.step"
    assert own_module("torch.nn") is None


@each_file
def test_modules_have_a_docstring(path):
    assert ast.get_docstring(parse(path))


@each_file
def test_functions_are_short(path):
    functions = (node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    lengths = [(node.name, node.end_lineno - node.lineno + 1) for node in functions]
    assert [(name, length) for name, length in lengths if length > MAX_FUNCTION_LINES] == []


def is_ignore_index(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] in ("IGNORE_INDEX", "-100")


@each_file
def test_the_label_shift_and_mask_stand_in_one_function(path):
    # data is below modeling and cannot call it; it compares only to refuse rows in which nothing is scored.
    if module_of(path).startswith("data.") or module_of(path) == "modeling.forward":
        return
    compares = (node for node in ast.walk(parse(path)) if isinstance(node, ast.Compare))
    masks = [node for node in compares if any(map(is_ignore_index, [node.left, *node.comparators]))]
    assert [f"line {node.lineno}: {ast.unparse(node)}" for node in masks] == []


def test_forward_shifts_labels_once():
    tree = parse(ROOT / PACKAGE / "modeling" / "forward.py")
    compares = (node for node in ast.walk(tree) if isinstance(node, ast.Compare))
    assert len([node for node in compares if any(map(is_ignore_index, node.comparators))]) == 1


@each_file
def test_the_ignored_label_is_written_by_name(path):
    if module_of(path) == "data.schema":
        return
    numbers = [node.lineno for node in ast.walk(parse(path)) if isinstance(node, ast.UnaryOp) and is_ignore_index(node)]
    assert numbers == []
