"""`python -m benchmarks.study` runs what has no results yet; `--summary` prints them, `--plan` what there is to do.

It may be stopped at any time: what is done is not done again. `--tuning_seeds 0 1 --test_seeds 20 21 22` runs less of
it, and a later call with more seeds adds to the results.
"""

import argparse
import json
from pathlib import Path

from benchmarks.runner import open_pieces, run_pieces
from benchmarks.study.methods import METHODS
from benchmarks.study.plan import (
    AUTO_SEEDS,
    FEWEST_RETRAINED,
    FURTHER_SEEDS,
    OTHER_SEEDS,
    RETRAINED,
    TEST_SEEDS,
    TUNING_SEEDS,
    Task,
)
from benchmarks.study.real_models import real_models
from benchmarks.study.summary import summary
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries


def main(argv: list[str] | None = None) -> None:
    """Runs the study, or tells what there is to do or what came out of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("study_work"), help="Where models are kept (10 GB).")
    parser.add_argument("--workers", type=int, default=2, help="Pieces at a time, each on one core.")
    parser.add_argument(
        "--tuning_seeds", type=int, nargs="+", default=TUNING_SEEDS, help="Seeds that choose the learning rates."
    )
    parser.add_argument("--test_seeds", type=int, nargs="+", default=TEST_SEEDS, help="Seeds that the summary is of.")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="By default all.")
    parser.add_argument(
        "--retrained",
        type=int,
        default=len(RETRAINED),
        choices=range(FEWEST_RETRAINED, len(RETRAINED) + 1),
        help="Retrained models for each test seed; their differences are the noise floor.",
    )
    parser.add_argument("--scale", action="store_true", help="Also four times the forget set, for the best methods.")
    parser.add_argument("--sequence", action="store_true", help="Also four requests one after the other, for the same.")
    parser.add_argument("--plan", action="store_true", help="Print what there is to do and how long it takes.")
    parser.add_argument("--summary", action="store_true", help="Print the committed results as JSON, on the last line.")
    options = parser.parse_args(argv)
    quiet_libraries()
    if not options.summary:
        _run(options)
    if not options.plan:
        others = {"further_seeds": FURTHER_SEEDS, "other_seeds": OTHER_SEEDS, "auto_seeds": AUTO_SEEDS}
        more = {name: summary(seeds, options.tuning_seeds) for name, seeds in others.items()}
        told = summary(options.test_seeds, options.tuning_seeds)
        print(json.dumps({**told, **more, **real_models()}))


def _run(options: argparse.Namespace) -> None:
    from benchmarks.study.report import write_report
    from benchmarks.study.rounds import Choice, rounds
    from benchmarks.study.work import Place, do_base

    place = Place(options.data_dir, options.work_dir)
    tasks = [task for task in (Task.SCALE, Task.SEQUENCE) if getattr(options, task.value)]
    choice = Choice(options.tuning_seeds, options.test_seeds, options.methods, options.retrained, tasks)
    hours = 0.0
    for each in rounds(place, choice):
        pieces = each.pieces()
        left = open_pieces(pieces)
        if options.plan:
            hours += each.hours(options.workers)
            print(f"{each.title}: {len(left)} of {len(pieces)} pieces, {each.hours(options.workers):.1f} hours")
        elif left:
            do_base(place)
            run_pieces(left, each.title, options.workers)
    if options.plan:
        print(f"All: {hours:.1f} hours with {options.workers} workers")
    else:
        write_report()


if __name__ == "__main__":
    main()
