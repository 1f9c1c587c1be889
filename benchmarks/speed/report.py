"""docs/scaling.md's table, from the committed results alone."""

from pathlib import Path
from typing import Any

from benchmarks import markdown, tables
from benchmarks.speed.measure import ratio
from benchmarks.tables import Line, read_table

RESULTS = tables.RESULTS / "speed"
PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
QUICK_RESULTS = Line(RESULTS / "quick.jsonl", "cpu")
LOAD_RESULTS = Line(RESULTS / "load.jsonl", "cpu")
AIMS = {
    "egup_over_floor": 1.05,
    "egup_over_sft_32k": 0.80,
    "egup_over_sft_262k": 0.70,
    "egup_over_npo_32k": 0.63,
    "egup_over_npo_262k": 0.47,
    "egup_over_npo_kl_32k": 0.55,
    "memory_over_npo_32k": 0.75,
    "memory_over_npo_262k": 0.70,
    "scale_100k_over_1k": 1.05,
}
"""At most, for each of the headline ratios."""

_FILES = ("scan_mb", "scan_counted_mb", "state_mb", "state_counted_mb")
OTHERS = ("floor", "sft", "npo", "npo_kl", "egup_padded")
HEADINGS = ["case", "seconds a step", "tokens/s", "peak GB", *(f"time / {name}" for name in OTHERS), "memory / npo"]


def write_report() -> None:
    """Writes the headline ratios, and a table for each kind of machine, between their markers."""
    text = markdown.put(PAGE.read_text(encoding="utf-8"), "quick", quick_table())
    text = markdown.put(text, "load", load_table())
    for machine in ("cpu", "gpu"):
        text = markdown.put(text, machine, table_of(steps_table(machine)))
    PAGE.write_text(text, encoding="utf-8")


def quick_table() -> str:
    """A row for each headline ratio: what it was, and what was aimed at."""
    if not QUICK_RESULTS.exists():
        return "Not run."
    found = QUICK_RESULTS.read()
    aims = {name: f"{aim:.2f}" for name, aim in AIMS.items()}
    rows = (
        [f"`{name}`", f"{value:.2f}", aims.get(name, "")]
        for name, value in (found["ratios"] | found.get("more", {})).items()
    )
    return markdown.table(["ratio", "measured", "at most"], rows)


def load_table() -> str:
    """A row for each run: forget rows, steps, memory, and files beside what they should take."""
    if not LOAD_RESULTS.exists():
        return "Not run."
    runs = LOAD_RESULTS.read()["runs"]
    numbers = [[each["rows"], each["steps"], each["peak_memory_gb"], *map(each.get, _FILES)] for each in runs]
    rows = ([f"{rows:,}", str(steps), *(f"{value:.2f}" for value in sizes)] for rows, steps, *sizes in numbers)
    return markdown.table(["forget rows", "steps", "peak GB", "scan MB", "counted", "state MB", "counted"], rows)


def steps_table(machine: str) -> Path:
    """The results of all cases on a kind of machine, "cpu" or "gpu"."""
    return RESULTS / f"steps_{machine}.jsonl"


def table_of(path: Path) -> str:
    """A row for each case: what EGUP with everything on took, and how many times what the others took."""
    cases = read_table(path)
    if not cases:
        return "Not run."
    rows = (_row(name, cases[name]["contenders"]) for name in sorted(cases))
    return markdown.table(HEADINGS, rows)


def _row(name: str, found: dict[str, Any]) -> list[str]:
    ours = found["egup"]
    times = [f"{ratio(found, 'egup', other):.2f}" if other in found else "" for other in OTHERS]
    memory = f"{ratio(found, 'egup', 'npo', 'peak_gb'):.2f}" if "npo" in found else ""
    facts = [f"{ours['seconds']:.3g}", f"{ours['tokens_per_second']:.0f}", f"{ours['peak_gb']:.2f}"]
    return [f"`{name}`", *facts, *times, memory]
