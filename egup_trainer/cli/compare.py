"""`egup compare`: results of several models side by side, as one HTML file that needs nothing else."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from egup_trainer.cli.common import OneLineParser, check_output
from egup_trainer.errors import ConfigError

if TYPE_CHECKING:
    from egup_trainer.audit.audit import Audit
    from egup_trainer.evaluation.evaluation import Evaluation


def main(argv: list[str]) -> None:
    """Writes the report and its numbers as JSON and CSV; prints a table of the main metrics."""
    parser = _parser()
    options, words = parser.parse_known_args(argv)
    parser.refuse_unknown(words)
    files = _distinct_files(options.results, options.retrained)
    check_output(options.output, ".html", '<meta name="generator" content="egup_trainer">')
    read = [*files, options.retrained, *options.audit]
    check_output(options.output.with_suffix(".json"), ".json", '"kind": "egup_trainer comparison"', read)
    check_output(options.output.with_suffix(".csv"), ".csv", "model,metric,value,low,high")

    from egup_trainer.cli.terminal import terminal
    from egup_trainer.report.models import Comparison
    from egup_trainer.report.page import write_report
    from egup_trainer.report.table import main_table, table_parts

    evaluations, retrained = _read(files, options.retrained)
    audits = _read_audits(options.audit)
    console = terminal()
    with console.status("Drawing"):
        written = write_report(
            options.output,
            evaluations,
            retrained,
            audits=audits,
            show_examples=options.show_examples,
            title=options.title,
        )
    console.print(main_table(table_parts(Comparison.of(evaluations, retrained)), options.title))
    console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="egup compare",
        allow_abbrev=False,
        description="Compares models by what `egup evaluate` wrote of them: one HTML file with tables and plots, "
        "readable offline and on a phone, and the same numbers as JSON and CSV beside it.",
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS.json",
        help="Results: first those of the model before unlearning, then one file a method. One file alone is a method.",
    )
    parser.add_argument(
        "--retrained", type=Path, metavar="RESULTS.json", help="Results of a model that never saw the forget rows."
    )
    parser.add_argument(
        "--audit",
        type=Path,
        nargs="+",
        default=[],
        metavar="AUDIT.json",
        help="What `egup audit` wrote of the unlearned models, for a section of its own.",
    )
    parser.add_argument("--output", type=Path, required=True, help="The HTML file to write.")
    parser.add_argument(
        "--show_examples",
        action="store_true",
        help="Show texts of rows and generations, if `egup evaluate` kept them.",
    )
    parser.add_argument("--title", default="Unlearning report", help="Title of the page.")
    return parser


def _distinct_files(results: list[Path], retrained: Path | None) -> list[Path]:
    """The files of results, each once and without that of the retrained model."""
    kept: dict[Path, Path] = {}
    for path in results:
        kept.setdefault(path.resolve(), path)
    if retrained is not None:
        kept.pop(retrained.resolve(), None)
    if not kept:
        raise ConfigError(
            got="no results besides those of --retrained", expected="those of one model or more", fix="name their files"
        )
    return list(kept.values())


def _read(files: list[Path], retrained_file: Path | None) -> "tuple[list[Evaluation], Evaluation | None]":
    """The evaluations with distinct names and the metrics that relate them, and the retrained model's."""
    from egup_trainer.evaluation.evaluation import check_same_rows, read_evaluation
    from egup_trainer.evaluation.relative import with_relations

    paths = [*files, *([] if retrained_file is None else [retrained_file])]
    read = [read_evaluation(path) for path in paths]
    names = distinct_names([evaluation.name for evaluation in read], paths)
    read = [replace(evaluation, name=name) for evaluation, name in zip(read, names, strict=True)]
    for evaluation, path in zip(read[1 : len(files)], files[1:], strict=True):
        check_same_rows(read[0], evaluation, str(path))
    before = read[0] if len(files) > 1 else None
    retrained = None if retrained_file is None else read[-1]
    related = [with_relations(evaluation, retrained=retrained, before=before) for evaluation in read]
    return related[: len(files)], None if retrained is None else related[-1]


def _read_audits(paths: list[Path]) -> "list[Audit]":
    """The audits, with distinct names."""
    from egup_trainer.audit.audit import Audit

    audits = [Audit.read(path) for path in paths]
    names = distinct_names([audit.name for audit in audits], paths)
    return [replace(audit, name=name) for audit, name in zip(audits, names, strict=True)]


def distinct_names(names: list[str], paths: list[Path]) -> list[str]:
    """A name for each model: its own; where several have it, that of its file; then with the folder; then its place.

    Example:
        >>> distinct_names(["egup", "model", "model"], [Path("a.json"), Path("b.json"), Path("c.json")])
        ['egup', 'b', 'c']
    """
    others: list[Callable[[int], str]] = [
        lambda place: paths[place].stem,
        lambda place: f"{paths[place].resolve().parent.name}/{paths[place].stem}",
        lambda place: f"{paths[place].stem} ({place + 1})",
    ]
    for other in others:
        counts = Counter(names)
        names = [other(place) if counts[name] > 1 else name for place, name in enumerate(names)]
    return names
