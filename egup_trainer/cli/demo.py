"""`egup demo`: invented people, a small model and its retrained twin, in a few minutes, with no network."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from egup_trainer.cli.common import OneLineParser, check_output_dir, quiet_libraries
from egup_trainer.errors import check_range

_TITLE = "Forgetting 10 of 40 invented people"


def main(argv: list[str]) -> None:
    """Runs the demo; prints a table, writes results, a picture and the report page."""
    parser = OneLineParser(
        prog="egup demo",
        allow_abbrev=False,
        description="Trains a small model on invented people, unlearns some of them by plain gradient difference and "
        "by EGUP + CLReg, compares both with a model that never saw them, and writes the report that `egup compare` "
        "makes of your own models. No network, no download.",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for report.html and the results.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of people, weights and orders.")
    options, words = parser.parse_known_args(argv)
    parser.refuse_unknown(words)
    check_output_dir(options.output_dir)
    check_range(options, ("seed",), low=0, whole=True)

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one process trains on one GPU at most
    from egup_trainer.cli.terminal import terminal
    from egup_trainer.demo.settings import demo_experiment
    from egup_trainer.records.facts import run_facts
    from egup_trainer.report.comparison import comparison_table, plot_comparison
    from egup_trainer.report.run_record import write_results

    quiet_libraries()
    console = terminal()
    start = time.perf_counter()
    experiment = demo_experiment(options.seed)
    facts = run_facts(command=f"egup demo --seed {options.seed}", settings=experiment.settings())
    rows = _run(experiment, options.output_dir, facts, lambda text: console.print(text, style="bold"))
    seconds = time.perf_counter() - start
    write_results(options.output_dir / "results.json", rows, {**facts, "seconds": seconds})
    plot_comparison(rows, options.output_dir / "comparison.png", _TITLE)
    console.print(comparison_table(rows, _TITLE))
    console.print(f"Open {options.output_dir / 'report.html'} in a browser ({seconds:.0f} s).", soft_wrap=True)


def _run(experiment: Any, folder: Path, facts: dict[str, Any], say: Callable[[str], None]) -> list[Any]:
    """Trains, evaluates and reports; returns the rows of the table."""
    from egup_trainer.demo.evaluating import evaluate, suite_of
    from egup_trainer.demo.experiment import measure, prepare, train_all
    from egup_trainer.evaluation.evaluation import write_evaluation
    from egup_trainer.evaluation.relative import with_relations
    from egup_trainer.report.page import write_report

    prepared, suite = prepare(experiment), suite_of(experiment)
    rows, evaluations, before = [], [], None
    for trained in train_all(experiment, prepared, say):
        before = before or trained.model
        rows.append(measure(trained, prepared))
        evaluations.append(evaluate(trained, prepared, suite, before, facts))
    say("Writing the report")
    *others, retrained = evaluations
    related = [with_relations(each, retrained=retrained, before=others[0]) for each in evaluations]
    for each in related:
        write_evaluation(folder / f"{each.name}.json", each)
    write_report(folder / "report.html", related[:-1], related[-1], show_examples=True, title=_TITLE)
    return rows
