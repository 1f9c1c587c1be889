"""What a public docstring must say, read from the source: sentence, arguments, errors, shapes, source, example."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import egup_trainer

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("metric", "gradient_norms", "relative")
FORMULA_FOLDERS = ("egup_trainer.losses.", "egup_trainer.components.", "egup_trainer.evaluation.metrics.")
FORMULA_MODULES = {f"egup_trainer.evaluation.{name}" for name in METRICS}
SHAPE = re.compile(r"\((?:\w{1,4},(?: \w{1,4})?(?:, \w{1,4})*)?\)")  # (), (B,), (N, d), (size,)
FORMULA = re.compile(r"Formula: |Example:|\w = |\b(?:mean|sum)_[a-z]\b|\b(?:cos|exp|KL|log|softmax|tr)\(|\w\^\w")
SOURCE = re.compile(r"arXiv\s\d{4}\.\d{5}|\b[Oo]urs\b|no single source")
NUMBERS = re.compile("Tensor|Metric|ndarray|float")
Node = ast.FunctionDef | ast.ClassDef
Definitions = dict[str, tuple[Node, ast.ClassDef | None]]
Rule = Callable[[Node, ast.ClassDef | None], Iterator[str]]


@cache
def tree_of(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def defined_in(body: list[ast.stmt]) -> dict[str, Node]:
    return {
        node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
    }


ERRORS = {name for name, node in defined_in(tree_of("egup_trainer.errors").body).items() if name.endswith("Error")}


# The rules: each yields what is missing


def first_line(node: Node, owner: ast.ClassDef | None = None) -> Iterator[str]:
    summary = (ast.get_docstring(node) or "").split("\n\n")[0]
    if not summary.endswith("."):
        yield f"a first sentence that ends: {summary!r}"


def arguments(node: Node, owner: ast.ClassDef | None = None) -> Iterator[str]:
    """Each argument stands under Args or in backquotes, in the docstring of the function or of its class."""
    text = "\n".join(ast.get_docstring(each) or "" for each in (node, owner) if each is not None)
    listed = re.search(r"Args:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    heads = re.findall(r"^ *([\w, \n]+):", listed[1], re.MULTILINE) if listed else []
    described = set(re.findall(r"\w+", " ".join(heads))) | set(re.findall(r"`(\w+)`", text))
    for name in names_of_arguments(node):
        if name not in described:
            yield f"what {name} is"


def names_of_arguments(node: Node) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        return [each.arg for each in given if each is not None and each.arg not in ("self", "cls")]
    starts = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    if starts:
        return names_of_arguments(starts[0])
    if not any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        return []
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each)]
    # An option of a configuration has a help text of its own.
    return [ast.unparse(each.target) for each in fields if each.value is None or "option(" not in ast.unparse(each)]


def errors(node: Node, owner: ast.ClassDef | None = None) -> Iterator[str]:
    """Each error of ours that the code raises itself stands behind the word Raises."""
    said = (ast.get_docstring(node) or "").partition("Raises")[2]
    code = [node]
    if isinstance(node, ast.ClassDef):
        code = [
            each
            for each in node.body
            if isinstance(each, ast.FunctionDef) and each.name in ("__init__", "__post_init__")
        ]
    raised = [each.exc for root in code for each in ast.walk(root) if isinstance(each, ast.Raise)]
    for name in sorted({each.func.id for each in raised if isinstance(each, ast.Call) and hasattr(each.func, "id")}):
        if name in ERRORS and not re.search(rf"\b{name}\b", said):
            yield f"when it raises {name}"


def shapes(node: Node, owner: ast.ClassDef | None = None) -> Iterator[str]:
    """A function that returns tensors says of what shape; a loss, of what shape its values are."""
    returns = isinstance(node, ast.FunctionDef) and node.returns is not None and "Tensor" in ast.unparse(node.returns)
    if (returns or is_loss(node)) and not SHAPE.search(ast.get_docstring(node) or ""):
        yield "a shape"


def source(node: Node, owner: ast.ClassDef | None = None) -> Iterator[str]:
    if is_loss(node) and not SOURCE.search(ast.get_docstring(node) or ""):
        yield "its source (arXiv, or ours)"


def formula(node: Node, owner: ast.ClassDef | None = None) -> Iterator[str]:
    counts = (
        isinstance(node, ast.FunctionDef) and node.returns is not None and NUMBERS.search(ast.unparse(node.returns))
    )
    if owner is None and (counts or is_loss(node)) and not FORMULA.search(ast.get_docstring(node) or ""):
        yield "a formula or an example"


def is_loss(node: Node) -> bool:
    """Whether it is a class of losses: it comes from one of the two base classes."""
    return isinstance(node, ast.ClassDef) and any(ast.unparse(base) in LOSSES for base in node.bases)


def losses() -> set[str]:
    """Names of the two base classes, and of all that come from them."""
    classes = [
        node
        for module in modules_under("egup_trainer.losses.")
        for node in defined_in(tree_of(module).body).values()
        if isinstance(node, ast.ClassDef)
    ]
    found, before = {"ForgetLoss", "RetainLoss"}, 0
    while len(found) > before:
        before = len(found)
        found |= {node.name for node in classes if found & {ast.unparse(base) for base in node.bases}}
    return found


def modules_under(*prefixes: str) -> list[str]:
    files = sorted((ROOT / "egup_trainer").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.name != "__init__.py"]
    return [name for name in names if name.startswith(prefixes)]


LOSSES = losses()

# What is public


def in_package() -> set[str]:
    """Full names of what `egup_trainer` exports."""
    return {f"{egup_trainer._HOMES[name]}.{name}" for name in egup_trainer.__all__}


def on_page() -> dict[str, list[str] | None]:
    """What docs/api.md shows: full name -> members, None for all public ones."""
    found = re.findall(r"^::: (\S+)((?:\n {4,}.*)*)", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    members = {name: re.search(r"members: (.*)", options) for name, options in found}
    return {name: None if said is None else re.findall(r"\w+", said[1]) for name, said in members.items()}


def public() -> Definitions:
    """Full name -> definition, and its class, of all that is exported or on the page."""
    found: Definitions = {}
    for name, members in {**{name: ["false"] for name in in_package()}, **on_page()}.items():
        if name.split(".")[-1] == "errors" or "hf_metrics" in name or name.endswith("model_card"):
            inside, owner = defined_in(tree_of(name).body), None
        else:
            module, _, last = name.rpartition(".")
            owner = defined_in(tree_of(module).body)[last]
            found[name] = owner, None
            inside = defined_in(owner.body) if isinstance(owner, ast.ClassDef) else {}
        shown = inside if members is None else [each for each in members if each != "false"]
        found |= {f"{name}.{each}": (inside[each], owner) for each in shown}
    return found


def everything(modules: list[str]) -> Definitions:
    """Full name -> definition, and its class, of all public functions, classes and documented methods."""
    found: Definitions = {}
    for module in modules:
        for name, node in defined_in(tree_of(module).body).items():
            found[f"{module}.{name}"] = node, None
            inside = defined_in(node.body) if isinstance(node, ast.ClassDef) else {}
            found |= {
                f"{module}.{name}.{each}": (part, node) for each, part in inside.items() if ast.get_docstring(part)
            }
    return found


def missing(definitions: Definitions, *rules: Rule) -> list[str]:
    return [
        f"{name}: lacks {what}"
        for name, (node, owner) in definitions.items()
        for rule in rules
        for what in rule(node, owner)
    ]


def test_the_public_api_is_described():
    assert len(public()) > 40
    assert missing(public(), first_line, arguments, errors) == []


def test_every_function_names_the_errors_that_it_raises():
    assert missing(everything(modules_under("egup_trainer.")), first_line, errors) == []


def test_losses_and_guidance_state_shapes_and_sources():
    assert len(LOSSES) > 15
    assert missing(everything(modules_under(*FORMULA_FOLDERS)), shapes, source) == []


def test_losses_guidance_and_metrics_have_a_formula_or_an_example():
    modules = [name for name in modules_under("egup_trainer.") if name.startswith(FORMULA_FOLDERS)]
    assert missing(everything(sorted({*modules, *FORMULA_MODULES})), formula) == []


# The rules themselves: each with docstrings that it must find fault with, and how


def faults(rule: Rule, code: str) -> list[str]:
    node = ast.parse(code).body[0]
    assert isinstance(node, Node)
    return list(rule(node, None))


GOOD = '''
def drawn(size: int, seed: int = 0) -> Tensor:
    """Uniform numbers: u_t = rand(seed).

    Args:
        size: how many.
        seed: where they start.

    Returns:
        Shape (N,).

    Raises:
        ConfigError: the size is negative.
    """
    if size < 0:
        raise ConfigError(got="-1", expected="a size", fix="set it")
'''
LOSS = '''
class Flat(ForgetLoss):
    """Flat logits (Entesari et al. 2025, arXiv 2506.05314).

    Formula: mean_t z_t, shape (B,).
    """
'''


@pytest.mark.parametrize("rule", [first_line, arguments, errors, shapes, source, formula])
@pytest.mark.parametrize("code", [GOOD, LOSS])
def test_a_rule_passes_what_lacks_nothing(rule, code):
    assert faults(rule, code) == []


@pytest.mark.parametrize(
    ("rule", "code", "cut", "found"),
    [
        (first_line, GOOD, "= rand(seed).", "a first sentence that ends: 'Uniform numbers: u_t '"),
        (arguments, GOOD, "        seed: where they start.\n", "what seed is"),
        (arguments, GOOD, "    Args:\n        size: how many.\n", "what size is"),
        (errors, GOOD, "ConfigError: the", "when it raises ConfigError"),
        (errors, GOOD, "Raises:", "when it raises ConfigError"),
        (shapes, GOOD, "(N,)", "a shape"),
        (shapes, LOSS, "(B,)", "a shape"),
        (source, LOSS, ", arXiv 2506.05314", "its source (arXiv, or ours)"),
        (formula, GOOD, "u_t = ", "a formula or an example"),
        (formula, LOSS, "Formula: mean_t", "a formula or an example"),
    ],
)
def test_a_rule_finds_what_is_cut_out(rule, code, cut, found):
    assert code.count(cut) == 1
    assert found in faults(rule, code.replace(cut, ""))


def test_fields_of_a_dataclass_and_arguments_of_a_constructor_count_as_arguments():
    fields = '@dataclass\nclass A:\n    """An A.\n\n    Args:\n        x: one.\n    """\n    x: int\n    y: int = 0'
    constructor = 'class A:\n    """An A of `x`."""\n    def __init__(self, x, *, y=0, **rest): ...'
    assert faults(arguments, fields) == ["what y is"]
    assert faults(arguments, constructor) == ["what y is", "what rest is"]


def test_no_docstring_is_a_fault():
    assert faults(first_line, "def f(): ...") == ["a first sentence that ends: ''"]
