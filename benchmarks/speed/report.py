"""docs/speed.md's table, from the committed results alone."""

import json
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.speed.measure import ratio

RESULTS = Path(__file__).parents[1] / "results" / "speed"
PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
OTHERS = ("floor", "sft", "npo", "npo_kl")
HEADINGS = ["case", "seconds a step", "tokens/s", "peak GB", *(f"time / {name}" for name in OTHERS), "memory / npo"]


def write_report() -> None:
    """Writes a table for each kind of machine between its markers."""
    text = PAGE.read_text(encoding="utf-8")
    for machine in ("cpu", "gpu"):
        text = markdown.put(text, machine, table_of(RESULTS / machine))
    PAGE.write_text(text, encoding="utf-8")


def table_of(folder: Path) -> str:
    """A row for each case: what EGUP with everything on took, and how many times what the others took."""
    files = sorted(folder.glob("*.json"))
    if not files:
        return "Not run."
    rows = (_row(path.stem, json.loads(path.read_text(encoding="utf-8"))["contenders"]) for path in files)
    return markdown.table(HEADINGS, rows)


def _row(name: str, found: dict[str, Any]) -> list[str]:
    ours = found["egup"]
    times = [f"{ratio(found, 'egup', other):.2f}" if other in found else "" for other in OTHERS]
    memory = f"{ratio(found, 'egup', 'npo', 'peak_gb'):.2f}" if "npo" in found else ""
    facts = [f"{ours['seconds']:.3g}", f"{ours['tokens_per_second']:.0f}", f"{ours['peak_gb']:.2f}"]
    return [f"`{name}`", *facts, *times, memory]
