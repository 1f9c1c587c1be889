"""Tables that pages show on GitHub as well: they are made from declarations and docstrings, and committed.

`PYTHONPATH=docs python -m generate.declared` writes them; a test compares the pages with the code.
"""

import re
from collections.abc import Callable
from pathlib import Path

from egup_trainer.evaluation.registry import MetricSpec, declared_metrics
from generate.tables import table

DOCS = Path(__file__).resolve().parents[1]


def metrics_table() -> str:
    """One line for each metric: its key in results, its definition, which way is better, and what it needs."""
    return table(["metric", "definition", "better", "needs"], map(_metric, declared_metrics()))


TABLES: dict[str, tuple[str, Callable[[], str]]] = {"evaluation.md": ("metrics", metrics_table)}
"""For each page, the name between its markers and the function that makes the table."""


def updated(page: str) -> str:
    """The text of a page with its current table."""
    name, make = TABLES[page]
    text = (DOCS / page).read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- begin: {name} -->\n).*?(\n<!-- end: {name} -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{make()}{found[2]}", text)


def _metric(spec: MetricSpec) -> list[str]:
    key = spec.name if spec.section is not None else f"SET_{spec.name}"
    return [f"`{key}`", spec.definition, spec.direction.value, spec.needs]


if __name__ == "__main__":
    for name in TABLES:
        (DOCS / name).write_text(updated(name), encoding="utf-8")
