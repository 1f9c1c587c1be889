"""The report: one HTML file that needs nothing else, and the same numbers as JSON and CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egup_trainer.audit.audit import Audit
from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.files import write_files
from egup_trainer.report.audits import AuditSection, audit_section
from egup_trainer.report.exports import to_csv, to_json
from egup_trainer.report.facts import fact_groups
from egup_trainer.report.labels import MetricText
from egup_trainer.report.models import Comparison
from egup_trainer.report.numbers import format_number
from egup_trainer.report.plots.drawing import looks
from egup_trainer.report.plots.features import projections
from egup_trainer.report.plots.outcome import forget_rows, tradeoff, truth_ratios
from egup_trainer.report.plots.training import training_curves
from egup_trainer.report.remarks import remarks
from egup_trainer.report.summary import NO_GUARANTEE, sentences
from egup_trainer.report.table import Part, table_parts

DEFAULT_TITLE = "Unlearning report"


@dataclass(frozen=True)
class ShownExample:
    """A row and what each model wrote after its prompt, by model name."""

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
    title: str = DEFAULT_TITLE,
) -> list[Path]:
    """Writes a comparison as HTML, and its numbers beside it as JSON and CSV; all of them whole, or none, and
    readable by the user alone.

    Args:
        path: of the HTML file; the others have its name and the endings .json and .csv.
        evaluations: the model before and the methods, in this order; one alone is a method. Relations to other models,
            such as forget quality, are as they stand in them.
        retrained: of the model that never saw the forget rows.
        audits: of the unlearned models, for a section of their own.
        show_examples: whether to show texts of rows and generations, where the evaluations hold them.
        title: of the page.

    Returns:
        The paths written.

    Raises:
        ConfigError: there is no evaluation, or two have the same name.
        DataError: two audits are of different rows or options.

    Example:
        >>> # write_report(Path("report.html"), [before, after], retrained, show_examples=False)
    """
    comparison = Comparison.of(evaluations, retrained)
    parts, audit = table_parts(comparison), audit_section(audits, comparison)
    numbers = [*parts, *(audit.parts if audit else [])]
    contents = {
        path: render_page(comparison, parts, audit, show_examples=show_examples, title=title),
        path.with_suffix(".json"): to_json(comparison, numbers, title),
        path.with_suffix(".csv"): to_csv(numbers),
    }
    write_files(contents)
    return list(contents)


def render_page(
    comparison: Comparison,
    parts: Sequence[Part],
    audit: AuditSection | None = None,
    *,
    show_examples: bool,
    title: str,
) -> str:
    """The report as HTML. All that comes from results is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("egup_trainer.report", package_path=".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html.j2").render(
        title=title,
        no_guarantee=NO_GUARANTEE,
        comparison=comparison,
        looks=(audit.looks if audit else {}) | looks(comparison),
        sentences=sentences(comparison),
        remarks=remarks(comparison),
        parts=parts,
        notes=_notes(parts),
        meanings=_meanings(parts),
        audit=audit,
        audit_notes=_notes(audit.parts) if audit else {},
        audit_meanings=_meanings(audit.parts) if audit else [],
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


def _notes(parts: Sequence[Part]) -> dict[str, int]:
    """Numbers of the reasons why values are missing, in the order of the table."""
    reasons = (cell.reason for part in parts for row in part.rows for cell in row.cells.values() if cell.reason)
    return {reason: place for place, reason in enumerate(dict.fromkeys(reasons), start=1)}


def _meanings(parts: Sequence[Part]) -> list[MetricText]:
    """Words for each term of the table once."""
    texts = {row.text.term: row.text for part in parts for row in part.rows if row.text.meaning}
    return list(texts.values())


def shown_examples(comparison: Comparison) -> list[ShownExample]:
    """The rows whose texts any model kept, each with what all models that kept it wrote."""
    found: dict[tuple[str, int], ShownExample] = {}
    for model in comparison.models:
        for set_name, examples in model.evaluation.examples.items():
            for example in examples:
                shown = ShownExample(set_name, example.sample, example.prompt, example.answer, {})
                found.setdefault((set_name, example.sample), shown).generations[model.name] = example.generation
    return list(found.values())
