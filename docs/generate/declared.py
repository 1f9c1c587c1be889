"""Tables that pages show on GitHub as well: they are made from declarations and docstrings, and committed.

`PYTHONPATH=docs python -m generate.declared` writes them; a test compares the pages with the code.
"""

import re
from collections.abc import Callable
from inspect import getdoc
from pathlib import Path

from egup_trainer.audit import ATTACKS, Attack
from egup_trainer.evaluation.metric_registry import MetricSpec, declared_metrics
from egup_trainer.evaluation.suites import SUITES, SuiteSpec
from egup_trainer.losses.registry import OBJECTIVES
from generate.tables import table

DOCS = Path(__file__).resolve().parents[1]
SECTIONS = ("Requirements", "Recommendations", "Relations")
"""Sections of the docstring of a forget loss that are columns of the table of objectives."""


def metrics_table() -> str:
    """One line for each metric: its key in results, what it says, which way is better, its definition and needs."""
    return table(["metric", "what it says", "better", "definition"], map(_metric, declared_metrics()))


def suites_table() -> str:
    """One line for each suite: its name, its rows, and its flags, those that are not required in brackets."""
    return table(["suite", "rows", "flags"], map(_suite, SUITES.values()))


def attacks_table() -> str:
    """One line for each attack: its name, what it means if it gets far, and what it needs besides the rows."""
    return table(["attack", "what it tells", "needs"], map(_attack, ATTACKS.values()))


def objectives_table() -> str:
    """One line for each objective: its name, what it is, and the SECTIONS of its docstring."""
    return table(["objective", "what it is", "requires", "when to use it", "relations"], map(_objective, OBJECTIVES))


def section(docstring: str, name: str) -> str:
    """The text of a section, in which list items follow each other.

    Raises:
        ValueError: the docstring has no such section.

    Example:
        >>> section("A loss.\\n\\nRelations:\\n    - To one,\\n      and one more.\\n    - To another.", "Relations")
        'To one, and one more. To another.'
    """
    found = re.search(rf"^{name}:[ \n](.*?)(?=\n\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"no section {name} in the docstring {docstring.splitlines()[0]!r}")
    return " ".join(re.sub(r"^\s*- ", "", found[1], flags=re.MULTILINE).split())


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "evaluation.md": {"metrics": metrics_table, "suites": suites_table},
    "auditing.md": {"attacks": attacks_table},
    "choosing.md": {"objectives": objectives_table},
}
"""For each page, the names between its markers and the functions that make the tables."""


def updated(page: str) -> str:
    """The text of a page with its current tables."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, make in TABLES[page].items():
        block = re.compile(rf"(<!-- begin: {name} -->\n).*?(\n<!-- end: {name} -->)", re.DOTALL)
        made = make()
        text = block.sub(lambda found, made=made: f"{found[1]}{made}{found[2]}", text)
    return text


def _metric(spec: MetricSpec) -> list[str]:
    key = spec.name if spec.section is not None else f"SET_{spec.name}"
    needs = f" Needs {spec.needs}." if spec.needs else ""
    return [f"`{key}`", spec.meaning, spec.direction.value, f"{spec.definition}{needs}"]


def _attack(attack: Attack) -> list[str]:
    flags = {
        "--holdout": attack.needs_holdout,
        "--model_before": attack.needs_before,
        "--judge_model": attack.needs_judge,
    }
    return [f"`{attack.name}`", attack.reading, ", ".join(f"`{flag}`" for flag, needed in flags.items() if needed)]


def _objective(name: str) -> list[str]:
    docstring = getdoc(OBJECTIVES[name]) or ""
    summary = re.split(r" \(|[.:]", docstring, maxsplit=1)[0]
    names = {loss.__name__: objective for objective, loss in OBJECTIVES.items()}
    texts = [
        re.sub(r"`(\w+)`", lambda found: f"`{names.get(found[1], found[1])}`", section(docstring, each))
        for each in SECTIONS
    ]
    return [f"`{name}`", summary, *texts]


def _suite(suite: SuiteSpec) -> list[str]:
    flags = [name for name in suite.parameters if name not in ("template", "max_length")]
    shown = (f"--{name}" if name in suite.required else f"[--{name}]" for name in flags)
    return [f"`{suite.name}`", suite.rows, " ".join(f"`{each}`" for each in shown)]


if __name__ == "__main__":
    for name in TABLES:
        (DOCS / name).write_text(updated(name), encoding="utf-8")
