"""`python -m benchmarks.study` runs what has no results yet; `--summary` prints them.

About two hours on two cores. It may be stopped at any time: what is done is not done again.
"""

import argparse
import json
from pathlib import Path

from benchmarks.runner import run_pieces
from benchmarks.study.methods import ABLATION, HEADLINE, WITH_ALL
from benchmarks.study.plan import SEEDS, chosen_runs, grid_of
from benchmarks.study.summary import summary
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries


def main() -> None:
    """Runs the study, or tells what came out of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("study_work"), help="Where models are kept (5 GB).")
    parser.add_argument("--workers", type=int, default=2, help="Pieces at a time, each on one core.")
    parser.add_argument("--summary", action="store_true", help="Print the committed results as JSON, on the last line.")
    options = parser.parse_args()
    quiet_libraries()
    if not options.summary:
        _run(options)
    print(json.dumps(summary()))


def _run(options: argparse.Namespace) -> None:
    from benchmarks.study.report import write_report
    from benchmarks.study.work import (
        Place,
        do_base,
        evaluation_pieces,
        model_pieces,
        record_models,
        training_pieces,
        wording_pieces,
    )

    place = Place(options.data_dir, options.work_dir)
    do_base(place)
    run_pieces(model_pieces(place), "Models before unlearning, and retrained", options.workers)
    for seed in SEEDS:
        record_models(place, seed)
    ablated = [name + suffix for name in ABLATION for suffix in ("", WITH_ALL)]
    for methods, title in ((ablated, "the ablated objectives"), (HEADLINE, "all objectives")):
        grid = (spec for method in methods for spec in grid_of(method))
        run_pieces(training_pieces(place, grid), f"Learning rates of {title}", options.workers)
        run_pieces(evaluation_pieces(place, chosen_runs()), f"Every seed of {title}", options.workers)
    run_pieces(wording_pieces(place, ablated), "Other wordings", options.workers)
    write_report()


if __name__ == "__main__":
    main()
