"""`python -m benchmarks.speed` measures the cases that have no results yet; `--quick` takes five minutes on two cores.

The last line of its output is JSON: medians over rounds of ratios within a round.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.runner import Piece, run_first_piece
from benchmarks.speed.contenders import CONTENDERS
from benchmarks.speed.measure import Case, compare, in_process_of_its_own, ratio
from benchmarks.speed.report import QUICK_RESULTS, steps_table, write_report
from benchmarks.speed.rows import read_rows
from benchmarks.speed.scale import compare_sizes
from benchmarks.speed.shapes import SHAPES, Tuning
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.records.facts import run_facts

QUICK = (
    (Case("llama_32k", batch=8, optim="sgd"), ("floor", "sft", "npo", "npo_kl", "egup"), 3, 1),
    (Case("gemma_262k", batch=4, optim="sgd"), ("sft", "npo", "egup"), 1, 2),
)
"""Case, contenders, rounds and timed steps of each run."""

SIZES = (1_000, 100_000)


def main() -> None:
    """Measures, and prints the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="Measure only the headline ratios, again if need be.")
    add_data_dir(parser)
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each contender, in turn.")
    parser.add_argument("--steps", type=int, default=3, help="Timed steps of each run.")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="Which shapes (default: all that the machine can).")
    parser.add_argument("--again", action="store_true", help="Measure again what has results already.")
    parser.add_argument(
        "--report", action="store_true", help="Only write docs/scaling.md's tables, from the committed results."
    )
    options = parser.parse_args()
    quiet_libraries()
    if options.report:
        write_report()
        return
    found = _quick(options.data_dir) if options.quick else _all(options)
    write_report()
    print(json.dumps(found))


def _quick(data_dir: str | None) -> dict[str, float]:
    small, large = (
        compare(case, read_rows(data_dir, case.pairs), names, rounds, steps) for case, names, rounds, steps in QUICK
    )
    found = {
        "egup_over_floor": ratio(small, "egup", "floor"),
        "egup_over_sft_32k": ratio(small, "egup", "sft"),
        "egup_over_sft_262k": ratio(large, "egup", "sft"),
        "egup_over_npo_32k": ratio(small, "egup", "npo"),
        "egup_over_npo_262k": ratio(large, "egup", "npo"),
        "egup_over_npo_kl_32k": ratio(small, "egup", "npo_kl"),
        "memory_over_npo_32k": ratio(small, "egup", "npo", "peak_gb"),
        "memory_over_npo_262k": ratio(large, "egup", "npo", "peak_gb"),
        # Steps of some milliseconds feel what the large models before them left in memory.
        "scale_100k_over_1k": in_process_of_its_own(compare_sizes, *SIZES, 100, 7)["ratio"],
    }
    own = {"memory_over_npo_32k, libraries left out": ratio(small, "egup", "npo", "own_gb")}
    QUICK_RESULTS.write({"ratios": found, "more": own, "run": run_facts()})
    return found


def _all(options: argparse.Namespace) -> dict[str, Any]:
    """Every shape that the machine can run, in all tunings and two cuts of a step; each case is a line of the table."""
    on_gpu = torch.cuda.is_available()
    table = steps_table("gpu" if on_gpu else "cpu")
    shapes = options.shapes or [name for name, shape in SHAPES.items() if on_gpu or not shape.on_gpu_alone]
    cases = [Case(name, tuning, *cut) for name in shapes for tuning in Tuning for cut in ((2, 8), (8, 2))]
    pieces = [Piece(case.name, (Line(table, case.name),), partial(_measure, case, table, options)) for case in cases]
    if options.again:
        for piece in pieces:
            piece.do()
    while run_first_piece(pieces):
        pass
    measured = {case.name: Line(table, case.name).read()["contenders"] for case in cases}
    return {name: {other: ratio(found, "egup", other) for other in found} for name, found in measured.items()}


def _measure(case: Case, table: Path, options: argparse.Namespace) -> None:
    rows = read_rows(options.data_dir, case.pairs)
    found = compare(case, rows, CONTENDERS, options.rounds, options.steps)
    Line(table, case.name).write({"contenders": found, "run": run_facts()})


if __name__ == "__main__":
    main()
