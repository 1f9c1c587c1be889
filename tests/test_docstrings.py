"""What a docstring must say beyond what ruff checks: arguments, errors, shapes, sources and formulas."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import egup_trainer
from egup_trainer import errors
from egup_trainer.losses.base import ForgetLoss

ROOT = Path(__file__).resolve().parents[1]
FORMULA_MODULES = ("losses.", "components.", "evaluation.metrics.", "evaluation.gradient_norms", "evaluation.relative")
SHAPE = re.compile(r"\((?:\w{1,4},(?: \w{1,4})?(?:, \w{1,4})*)?\)")  # (), (B,), (N, d), (size,)
FORMULA = re.compile(r"Formula: |Example:|\w = |\b(?:mean|sum)_[a-z]\b|\b(?:cos|exp|KL|log|softmax|tr)\(|\w\^\w")
SOURCE = re.compile(r"arXiv\s\d{4}\.\d{5}|\b[Oo]urs\b|no single source")
ERRORS = {name for name, value in vars(errors).items() if inspect.isclass(value)}


def defined_in(prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Full name and object of all public functions, classes and documented methods of modules; of these, the class."""
    for path in sorted((ROOT / "egup_trainer").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(f"egup_trainer.{prefix}"):
            continue
        for key, value in vars(import_module(name)).items():
            if key[0] != "_" and getattr(value, "__module__", None) == name and callable(value):
                yield f"{name}.{key}", value, None
                if inspect.isclass(value):
                    methods = [(at, each) for at, each in vars(value).items() if inspect.isfunction(each)]
                    yield from (
                        (f"{name}.{key}.{at}", each, value) for at, each in methods if at[0] != "_" and each.__doc__
                    )


def doc_of(value: Any) -> str:
    return inspect.cleandoc(value.__doc__ or "")


def undescribed_arguments(value: Any, owner: Any) -> list[str]:
    """Arguments that are neither under Args nor in backquotes, in the docstring of the function or of its class."""
    text = doc_of(value) + "\n" + doc_of(owner)
    listed = re.search(r"Args:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    heads = re.findall(r"^ *([\w, \n]+):", listed[1], re.MULTILINE) if listed else []
    described = {*re.findall(r"\w+", " ".join(heads)), *re.findall(r"`(\w+)`", text)}
    if getattr(value, "__dataclass_fields__", None):  # an option has a help text of its own
        options = {key for key, each in value.__dataclass_fields__.items() if "help" in each.metadata}
        described |= options | set(dir(value.__mro__[1]))
    if inspect.isclass(value) and "__init__" not in vars(value):  # it is called as its base class is
        return []
    given = {*inspect.signature(value).parameters} - {"self"}
    return sorted(given - described)


def unnamed_errors(value: Any) -> list[str]:
    """Errors of ours that the code raises itself and that are not named behind the word Raises."""
    sources = [value]
    if inspect.isclass(value):
        sources = [
            vars(value)[key] for key in ("__init__", "__post_init__") if inspect.isfunction(vars(value).get(key))
        ]
    found = set()
    for each in sources:
        try:
            tree = ast.parse(dedent(inspect.getsource(each)))
        except OSError:  # written by dataclass
            continue
        raised = [
            node.exc.func for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        ]
        found |= {node.id for node in raised if isinstance(node, ast.Name)}
    said = doc_of(value).partition("Raises")[2]
    return sorted(name for name in found & ERRORS if not re.search(rf"\b{name}\b", said))


def test_the_public_api_describes_its_arguments():
    entries = re.findall(r"^::: egup_trainer\.(\S+)((?:\n {4,}.*)*)", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    shown = {name: re.search(r"members: (.*)", options) for name, options in entries}
    exported = {f"{egup_trainer._HOMES[name]}.{name}".removeprefix("egup_trainer.") for name in egup_trainer.__all__}
    shown |= {name: re.match("members: (false)", "members: false") for name in exported - set(shown)}
    found = {
        name: undescribed_arguments(value, owner)
        for prefix, members in shown.items()
        for name, value, owner in defined_in(prefix.rpartition(".")[0])
        if f"{name}.".startswith(f"egup_trainer.{prefix}.")
        and (owner is None or members is None or name.rpartition(".")[2] in members[1])
    }
    assert len(found) > 40
    assert {name: lacking for name, lacking in found.items() if lacking} == {}


def test_every_function_names_the_errors_that_it_raises():
    found = {
        name: unnamed_errors(value)
        for name, value, _ in defined_in("")
        if inspect.isfunction(value) or inspect.isclass(value)
    }
    assert len(found) > 300
    assert {name: lacking for name, lacking in found.items() if lacking} == {}


@pytest.mark.parametrize("prefix", FORMULA_MODULES)
def test_formulas_shapes_and_sources(prefix):
    lacking = []
    for name, value, _ in defined_in(prefix):
        text, is_loss = (
            doc_of(value),
            inspect.isclass(value) and issubclass(value, ForgetLoss) and value is not ForgetLoss,
        )
        returns = "" if inspect.isclass(value) else str(getattr(value, "__annotations__", {}).get("return", ""))
        lacking += [f"{name}: a shape"] * (("Tensor" in returns or is_loss) and not SHAPE.search(text))
        lacking += [f"{name}: a source"] * (is_loss and not SOURCE.search(text))
        counts = is_loss or (
            "." not in getattr(value, "__qualname__", ".") and re.search("Tensor|Metric|ndarray|float", returns)
        )
        lacking += [f"{name}: a formula or an example"] * bool(counts and not FORMULA.search(text))
    assert lacking == []
