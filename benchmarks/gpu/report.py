"""docs/scaling.md's table of what was checked on a GPU, from the committed results alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.tables import read_table

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
_NUMBERS = {
    "time_over_plain": "time {:.2f} of plain",
    "time_over_padded": "time {:.2f} of padded",
    "peak_gb": "peak {:.2f} GB",
    "ratio": "estimated / measured {:.2f}",
    "generated_tokens_per_second": "{:,.0f} tokens/s generated",
    "scored_tokens_per_second": "{:,.0f} tokens/s scored",
    "verdict": "{}",
}
"""Measured numbers that are shown, and how."""


def write_report(table: Path) -> None:
    """Writes the table between its markers."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(markdown.put(page, "gpu checks", report(table)), encoding="utf-8")


def report(table: Path) -> str:
    """A row for each case; a part without cases has one, too."""
    lines = {name: line for name, line in read_table(table).items() if line["device"] == "cuda"}
    if not lines:
        return "Not run yet."
    rows = [row for name, line in lines.items() for row in _rows(name, line)]
    return markdown.table(["part", "case", "", "largest difference / allowed", "measured or reason"], rows)


def _rows(name: str, line: dict[str, Any]) -> Iterator[list[str]]:
    for case in line["cases"]:
        yield [name, case["name"], case["status"], _worst(case), case["reason"] or _measured(case)]
    if not line["cases"] or "ended" in (line["reason"] or ""):
        yield [name, "", line["status"], "", line["reason"]]


def _worst(case: dict[str, Any]) -> str:
    """The check that came nearest to its bound, or went farthest beyond."""
    pairs = [(check.get("off", check["found"]), check["at_most"]) for check in case["checks"] if check.get("at_most")]
    numbers = [(found, most) for found, most in pairs if isinstance(found, int | float)]
    if not numbers:
        return ""
    found, most = max(numbers, key=lambda pair: pair[0] / pair[1])
    return f"{found:.2g} / {most:.2g}"


def _measured(case: dict[str, Any]) -> str:
    found = {name: case["measured"].get(name) for name in _NUMBERS}
    return ", ".join(form.format(found[name]) for name, form in _NUMBERS.items() if found[name] is not None)
