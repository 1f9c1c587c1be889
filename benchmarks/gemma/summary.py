"""From the records of a size to one number a model and measure, as JSON or as a table."""

from benchmarks import markdown
from benchmarks.gemma.plan import METHODS, MODELS, Size, record_line
from benchmarks.study.plan import Record
from benchmarks.study.report import COLUMNS, DOCS
from benchmarks.study.summary import MEASURES

Found = dict[str, dict[str, float | None]]


def summary(size: Size, seed: int) -> Found:
    """The measures of the study for each model that has results; empty until the two models compared with have them."""
    lines = {name: record_line(size, name, seed) for name in (*reversed(MODELS), *METHODS)}
    values = {name: Record.read(line).values for name, line in lines.items() if line.exists()}
    if not set(MODELS) <= set(values):
        return {}
    models = {name: values[name] for name in MODELS}
    return {
        name: {measure: number(each, models) for measure, number in MEASURES.items()} for name, each in values.items()
    }


def write_report(seed: int) -> None:
    """Writes the tables of docs/results.md from the committed results: of each size that has some."""
    page = DOCS / "results.md"
    text = page.read_text(encoding="utf-8")
    for size in Size:
        found = summary(size, seed)
        text = markdown.put(text, f"gemma {size.value}", table(found) if found else "Not run.")
    page.write_text(text, encoding="utf-8")


def table(found: Found) -> str:
    """The summary in markdown, with the columns of the study's tables that have a number."""
    used = [key for key in COLUMNS if any(each[key] is not None for each in found.values())]
    rows = ([f"`{name}`", *(_cell(each[key]) for key in used)] for name, each in found.items())
    return markdown.table(["model", *(COLUMNS[key] for key in used)], rows)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
