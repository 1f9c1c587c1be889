"""`egup compare`: results of several models side by side, as one HTML file that needs nothing else."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from egup_trainer.cli.command import Command
from egup_trainer.cli.flags import Arguments, check_output, flag, positional
from egup_trainer.cli.terminal import terminal
from egup_trainer.errors import ConfigError
from egup_trainer.extras import require_extra

if TYPE_CHECKING:
    from egup_trainer.audit.audit import Audit
    from egup_trainer.evaluation.evaluation import Evaluation

    _Named = TypeVar("_Named", Audit, Evaluation)


@dataclass
class CompareArguments(Arguments):
    """What is compared, and the report."""

    results: list[Path] = positional(
        "Results of `egup evaluate`, or TOFU_EVAL.json or MUSE_EVAL.json of OpenUnlearning: first those of the model "
        "before unlearning, then one file per method. A single file is that of a method.",
        metavar="RESULTS.json",
    )
    retrained: Path | None = flag(
        "Results of a model that never saw the forget rows, of either kind.", metavar="RESULTS.json"
    )
    audit: list[Path] | None = flag(
        "Results of `egup audit` on the unlearned models, for a section of its own.", metavar="AUDIT.json"
    )
    output: Path | None = flag("The HTML file to write.")
    show_examples: bool = flag("Show texts of rows and generations, if `egup evaluate` kept them.", False)
    title: str = flag("Title of the page.", "Unlearning report")


def run(args: CompareArguments) -> None:
    """Writes the report and its numbers as JSON and CSV; prints a table of the main metrics and the verdicts.

    Raises:
        ConfigError: there are no results besides those of the retrained model.
    """
    output, audit_files = Path(str(args.output)), args.audit or []
    files: dict[Path, Path] = {}
    for path in args.results:
        files.setdefault(path.resolve(), path)
    if args.retrained is not None:
        files.pop(args.retrained.resolve(), None)
    if not files:
        raise ConfigError(
            got="no results besides those of --retrained",
            expected="those of at least one model",
            fix="name their files",
        )
    check_report(output, [*files, args.retrained, *audit_files])

    from egup_trainer.audit.audit import Audit
    from egup_trainer.report.comparison import Comparison
    from egup_trainer.report.page import write_report
    from egup_trainer.report.remarks import of_other_frameworks
    from egup_trainer.report.table import main_table, table_parts
    from egup_trainer.report.verdict import verdict_lines

    evaluations, retrained = _read(list(files.values()), args.retrained)
    audits = _with_distinct_names([Audit.read(path) for path in audit_files], audit_files)
    console = terminal()
    with console.status("Drawing"):
        written = write_report(
            output, evaluations, retrained, audits=audits, show_examples=args.show_examples, title=args.title
        )
    comparison = Comparison.of(evaluations, retrained)
    console.print(main_table(table_parts(comparison), args.title))
    lines = [*verdict_lines(comparison), *of_other_frameworks(comparison.models)]
    console.print("\n".join(lines), soft_wrap=True, markup=False)
    console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)


def check_report(output: Path, read: Iterable[str | Path | None], flag: str = "--output") -> None:
    """Refuses a report to write, and the files beside it; arguments and errors are those of `check_output`."""
    check_output(output, ".html", '<meta name="generator" content="egup_trainer">', flag=flag)
    check_output(output.with_suffix(".json"), ".json", '"kind": "egup_trainer comparison"', read, flag)
    check_output(output.with_suffix(".csv"), ".csv", "model,metric,value,low,high", flag=flag)


def check(args: CompareArguments) -> None:
    """Raises an error for all that can be refused before there are results to compare."""
    require_extra("report", "a report page")
    check_report(Path(str(args.output)), [*args.results, args.retrained, *(args.audit or [])])


def _read(files: list[Path], retrained_file: Path | None) -> "tuple[list[Evaluation], Evaluation | None]":
    """The evaluations with distinct names and the metrics that relate them, and that of the retrained model."""
    from egup_trainer.evaluation.definitions import Definitions
    from egup_trainer.evaluation.evaluation import check_same_rows, read_evaluation
    from egup_trainer.evaluation.relative import with_relations

    paths = files if retrained_file is None else [*files, retrained_file]
    found, theirs = [read_evaluation(path) for path in paths], Definitions.OPEN_UNLEARNING
    if all(each.names_no_rows or each.definitions is theirs for each in found):
        found = [read_evaluation(path, theirs) for path in paths]
    read = _with_distinct_names(found, paths)
    for evaluation, path in zip(read[1 : len(files)], files[1:], strict=True):
        check_same_rows(read[0], evaluation, str(path))
    before = read[0] if len(files) > 1 else None
    retrained = None if retrained_file is None else read[-1]
    related = [with_relations(evaluation, retrained=retrained, before=before) for evaluation in read]
    return related[: len(files)], None if retrained is None else related[-1]


def _with_distinct_names(models: "list[_Named]", paths: list[Path]) -> "list[_Named]":
    names = distinct_names([model.name for model in models], paths)
    return [replace(model, name=name) for model, name in zip(models, names, strict=True)]


def distinct_names(names: list[str], paths: list[Path]) -> list[str]:
    """One name per model: its own, or if several models have it, that of its file, then with the folder, then numbered.

    Example:
        >>> distinct_names(["egup", "model", "model"], [Path("a.json"), Path("b.json"), Path("c.json")])
        ['egup', 'b', 'c']
    """
    by_file = [path.stem for path in paths]
    by_folder = [f"{path.resolve().parent.name}/{path.stem}" for path in paths]
    by_number = [f"{path.stem} ({number})" for number, path in enumerate(paths, start=1)]
    for others in (by_file, by_folder, by_number):
        counts = Counter(names)
        names = [other if counts[name] > 1 else name for name, other in zip(names, others, strict=True)]
    return names


COMMAND = Command(
    "compare",
    "put results side by side in a page that anyone can open",
    run,
    check=check,
    options=lambda: [CompareArguments],
    required=("output",),
    description="Compares models by what `egup evaluate` wrote of them: one HTML file with tables and plots, readable "
    "offline and on a phone, and the same numbers as JSON and CSV beside it.",
    uses_models=False,
)
