"""The report: one HTML file that needs no other file, and the same numbers as JSON and CSV."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from egup_trainer.audit.audit import Audit
from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.evaluation.metric_registry import MetricText
from egup_trainer.extras import require_extra
from egup_trainer.files import write_files
from egup_trainer.report.audits import AuditSection, audit_section
from egup_trainer.report.comparison import Comparison, fact_groups
from egup_trainer.report.numbers import format_number
from egup_trainer.report.plots.curves import training_curves
from egup_trainer.report.plots.drawing import looks
from egup_trainer.report.plots.known_rows import known_rows
from egup_trainer.report.plots.outcome import forget_rows, tradeoff, truth_ratios
from egup_trainer.report.plots.projections import projections
from egup_trainer.report.questions import questions
from egup_trainer.report.remarks import remarks
from egup_trainer.report.single_rows import single_rows
from egup_trainer.report.table import Cell, Parts, Row, table_parts
from egup_trainer.report.verdict import NO_GUARANTEE, judgments

SCHEMA_VERSION = 1
_KIND = "egup_trainer comparison"
_FIELDS = ("value", "low", "high", "num_samples", "num_skipped", "reason", "distance_to_retrained", "best")
# The last four are full-width forms of the first; a spreadsheet may begin a cell after each of these separators.
_FORMULA = re.compile("((?:^|[;\t\r\n])\\s*)(?=[=+@\uff1d\uff0b\uff0d\uff20-])")


@dataclass(frozen=True)
class ShownExample:
    """A row, and what each model wrote after its prompt, by model name."""

    set_name: str
    sample: int
    prompt: str
    answer: str
    generations: dict[str, str]


def write_report(
    path: Path,
    evaluations: Sequence[Evaluation],
    retrained: Evaluation | None = None,
    *,
    audits: Sequence[Audit] = (),
    show_examples: bool = False,
    title: str = "Unlearning report",
) -> list[Path]:
    """Writes a comparison as HTML, and its numbers beside it as JSON and CSV: all of them complete, or none.

    Only the user can read the files.

    Args:
        path: path of the HTML file; the others have the same name and end in .json and .csv.
        evaluations: the initial model and the methods, in this order; a single one is a method. Relations to other
            models, such as forget quality, are taken from them as they are.
        retrained: evaluation of the model that never saw the forget rows.
        audits: audits of the unlearned models, for a section of their own.
        show_examples: whether to show texts of rows and generations, if the evaluations hold them.
        title: title of the page.

    Returns:
        The paths of the files.

    Raises:
        ConfigError: there is no evaluation, or two have the same name.
        DataError: two audits are of different rows or options.

    Example:
        >>> # write_report(Path("report.html"), [before, after], retrained, show_examples=False)
    """
    require_extra("report", "a report page")
    comparison = Comparison.of(evaluations, retrained)
    parts, audit = table_parts(comparison), audit_section(audits, comparison)
    rows = [row for each in (parts, audit.parts if audit else {}) for part in each.values() for row in part]
    contents = {
        path: render_page(comparison, parts, audit, show_examples=show_examples, title=title),
        path.with_suffix(".json"): to_json(comparison, rows, title),
        path.with_suffix(".csv"): to_csv(rows),
    }
    write_files(contents)
    return list(contents)


def render_page(
    comparison: Comparison,
    parts: Parts,
    audit: AuditSection | None = None,
    *,
    show_examples: bool,
    title: str,
) -> str:
    """The report as HTML. Everything that comes from results is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("egup_trainer.report", package_path=".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    judged = judgments(comparison)
    return environment.get_template("template.html.j2").render(
        title=title,
        no_guarantee=NO_GUARANTEE,
        comparison=comparison,
        looks=(audit.looks if audit else {}) | looks(comparison),
        verdicts={name: judgment.verdict for name, judgment in judged.items()},
        known_rows=known_rows(comparison),
        questions=questions(comparison, judged, audit.audits if audit else ()),
        parts=parts,
        notes_of=_notes,
        meanings_of=_meanings,
        audit=audit,
        tradeoff=tradeoff(comparison),
        truth_ratios=truth_ratios(comparison),
        forget_rows=forget_rows(comparison),
        projections=projections(comparison),
        training=training_curves(comparison),
        show_examples=show_examples,
        examples=shown_examples(comparison) if show_examples else [],
        facts=fact_groups(comparison),
        number=format_number,
    )


def _notes(parts: Parts) -> dict[str, int]:
    """The reasons why values are missing, numbered in the order of the table."""
    reasons = (cell.metric.reason for part in parts.values() for row in part for cell in row.cells.values())
    return {reason: number for number, reason in enumerate(dict.fromkeys(filter(None, reasons)), start=1)}


def _meanings(parts: Parts) -> list[MetricText]:
    """Words for each term of the table once."""
    texts = {row.text.term: row.text for part in parts.values() for row in part if row.text.meaning}
    return list(texts.values())


def shown_examples(comparison: Comparison) -> list[ShownExample]:
    """The rows whose texts any model kept, each with what every model that kept it wrote.

    Args:
        comparison: the models.
    """
    found: dict[tuple[str, int], ShownExample] = {}
    for model in comparison.models:
        for set_name, examples in model.evaluation.examples.items():
            for example in examples:
                shown = ShownExample(set_name, example.sample, example.prompt, example.answer, {})
                found.setdefault((set_name, example.sample), shown).generations[model.name] = example.generation
    return list(found.values())


def to_json(comparison: Comparison, rows: Sequence[Row], title: str) -> str:
    """The table as JSON: metrics by name, cells by model; with the models, their rows and runs. No row's text."""
    models = [
        {
            "name": model.name,
            "role": model.role.value,
            "suite": model.evaluation.suite,
            "split": model.evaluation.split,
            "sets": {
                name: {"num_rows": facts.num_rows, "cut": facts.cut, "in_windows": facts.in_windows}
                for name, facts in model.evaluation.sets.items()
            },
            "run": model.run,
        }
        for model in comparison.models
    ]
    document = {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "note": NO_GUARANTEE,
        "verdict": {name: judgment.verdict.to_dict() for name, judgment in judgments(comparison).items()},
        "forget_rows": {name: asdict(found) for name, found in single_rows(comparison).items()},
        "remarks": remarks(comparison),
        "models": models,
        "metrics": {row.metric: {name: _values(cell) for name, cell in row.cells.items()} for row in rows},
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """The table as CSV: a line per model and metric; a value that does not exist is empty.

    A text that a spreadsheet would take for a formula has a ' before it.
    """
    written = io.StringIO()
    writer = csv.DictWriter(written, ("model", "metric", *_FIELDS), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for name, cell in row.cells.items():
            line = {"model": name, "metric": row.metric, **_values(cell)}
            texts = {column: value for column, value in line.items() if isinstance(value, str)}
            writer.writerow(line | {column: _FORMULA.sub(r"\1'", text) for column, text in texts.items()})
    return written.getvalue()


def _values(cell: Cell) -> dict[str, float | int | str | bool | None]:
    found = cell.metric
    values = (found.value, *(found.interval or (None, None)), found.num_samples, found.num_skipped, found.reason)
    return dict(zip(_FIELDS, (*values, cell.distance, cell.best), strict=True))
