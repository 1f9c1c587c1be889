"""`egup demo`: invented people, a small model and its retrained twin, in a few minutes, without a network."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from egup_trainer.cli.command import Command
from egup_trainer.cli.compare import check_report
from egup_trainer.cli.flags import Arguments, check_output, check_output_dir, flag
from egup_trainer.cli.terminal import terminal
from egup_trainer.errors import check_range
from egup_trainer.extras import require_extra
from egup_trainer.files import write_file

_TITLE = "Forgetting 10 of 40 invented people"


@dataclass
class DemoArguments(Arguments):
    """Where the files go, and the seed."""

    output_dir: Path | None = flag("Folder for report.html and the results.")
    seed: int = flag("Seed of people, weights and orders.", 0)


def run(args: DemoArguments) -> None:
    """Runs the demo; prints a table, and writes results, a picture and the report."""
    folder = Path(str(args.output_dir))
    for extra in ("evaluation", "report"):
        require_extra(extra, "`egup demo`")
    check_output_dir(folder)
    check_report(folder / "report.html", [], "--output_dir")
    check_output(folder / "results.json", ".json", '"schema_version"', flag="--output_dir")
    check_range(args, ("seed",), low=0, whole=True)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one process trains on at most one GPU
    from egup_trainer.demo.experiment import demo_experiment, evaluate_all, results_document
    from egup_trainer.records.facts import run_facts
    from egup_trainer.records.io import to_json
    from egup_trainer.report.comparison import Comparison
    from egup_trainer.report.page import write_report
    from egup_trainer.report.plots.outcome import write_picture
    from egup_trainer.report.table import main_table, table_parts
    from egup_trainer.report.verdict import verdict_lines

    console, start = terminal(), time.perf_counter()
    experiment = demo_experiment(args.seed)
    facts = run_facts(command=f"egup demo --seed {args.seed}", settings=experiment.settings())
    measured, evaluations = evaluate_all(experiment, folder, facts, lambda text: console.print(text, style="bold"))
    write_report(folder / "report.html", evaluations[:-1], evaluations[-1], show_examples=True, title=_TITLE)
    seconds = time.perf_counter() - start
    results = results_document(measured, {**facts, "seconds": seconds})
    write_file(folder / "results.json", to_json(results), private=False)
    comparison = Comparison.of(evaluations[:-1], evaluations[-1])
    write_picture(folder / "comparison.png", comparison, _TITLE)
    console.print(main_table(table_parts(comparison), _TITLE))
    console.print("\n".join(verdict_lines(comparison)), soft_wrap=True, markup=False)
    console.print(f"Open {folder / 'report.html'} in a browser ({seconds:.0f} s).", soft_wrap=True)


COMMAND = Command(
    "demo",
    "see it work on invented people, with no network and no download",
    run,
    options=lambda: [DemoArguments],
    required=("output_dir",),
    description="Trains a small model on invented people, unlearns some of them by plain gradient difference and by "
    "what `egup unlearn` does by default, compares both with a model that never saw them, and writes the report that "
    "`egup compare` makes of your own models. No network, no download.",
)
