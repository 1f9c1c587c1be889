"""Weak scaling and what processes tell each other: `python -m benchmarks.speed.scaling`.

One process, then two, each pinned to a core of its own with the same number of rows a step, run after run; DDP over
gloo. Efficiency is the time of a step with one process over that with two. Bytes are those that a process hands to the
collectives of torch.distributed in a step; the all-reduce of the gradients, which DDP does below them, is told by its
size.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.speed.report import RESULTS
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.records.facts import run_facts

COLLECTIVES = {"all_reduce": 0, "all_gather": 1, "all_gather_into_tensor": 1, "broadcast": 0, "gather": 0, "reduce": 0}
"""Each with the place of the tensor that a process gives."""

SHAPE, PAIRS, STEPS = "llama_32k", 4, 4
"""Model, forget rows and retain rows a step and process, and timed steps."""


def launch(processes: int, data_dir: str | None, folder: Path) -> dict[str, Any]:
    """Runs this file in so many processes; what the first one found."""
    result = folder / "result.json"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    where = [] if data_dir is None else ["--data_dir", data_dir]
    command = [*start, "-m", "benchmarks.speed.scaling", *where, "--worker", str(result)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(result.read_text(encoding="utf-8"))


def count_bytes(counts: Counter[str]) -> None:
    """Makes the collectives count what they are given."""
    import torch.distributed as dist

    def counting(name: str, call: Callable, place: int) -> Callable:
        def counted(*args: Any, **kwargs: Any) -> Any:
            given = args[place] if len(args) > place else kwargs.get("tensor", kwargs.get("input_tensor"))
            counts[name] += given.numel() * given.element_size()
            return call(*args, **kwargs)

        return counted

    for name, place in COLLECTIVES.items():
        setattr(dist, name, counting(name, getattr(dist, name), place))


def work(data_dir: str | None, result: Path) -> None:
    """A process of a run: trains with all parts on; the first process writes what it measured."""
    rank = int(os.environ["LOCAL_RANK"])
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    counts: Counter[str] = Counter()
    count_bytes(counts)
    from transformers import TrainerCallback

    from benchmarks.speed.contenders import egup
    from benchmarks.speed.measure import StepClock
    from benchmarks.speed.rows import read_rows
    from benchmarks.speed.shapes import Tuning, make_model
    from egup_trainer.cli.terminal import quiet_libraries

    class CountedFromHere(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                counts.clear()

    quiet_libraries()
    options = {
        "max_steps": STEPS + 1,
        "per_device_train_batch_size": PAIRS,
        "optim": "sgd",
        "learning_rate": 1e-5,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    processes = int(os.environ["WORLD_SIZE"])
    with TemporaryDirectory() as folder:
        model, clock = make_model(SHAPE, Tuning.FULL), StepClock()
        trainer = egup(model, read_rows(data_dir, PAIRS * processes), Path(folder), options, None)
        trainer.add_callback(clock)
        trainer.add_callback(CountedFromHere())
        trainer.train()
    found = {
        "processes": trainer.accelerator.num_processes,
        "wrapped": type(trainer.model_wrapped).__name__,
        "seconds": statistics.median(clock.seconds),
        "bytes_a_step": {name: value / STEPS for name, value in counts.items()},
        "bytes_of_features": 2 * PAIRS * model.config.hidden_size * 4,
        "bytes_of_gradients": sum(weight.numel() * 4 for weight in model.parameters() if weight.requires_grad),
    }
    if rank == 0:
        result.write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    """Measures, writes the results, and prints the efficiency."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.scaling", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.data_dir, options.worker)
        return
    with TemporaryDirectory() as folder:
        rounds = [[launch(count, options.data_dir, Path(folder)) for count in (1, 2)] for _ in range(options.rounds)]
    found = {
        "efficiency": statistics.median(one["seconds"] / two["seconds"] for one, two in rounds),
        "seconds": [[one["seconds"], two["seconds"]] for one, two in rounds],
        "two_processes": {name: value for name, value in rounds[-1][1].items() if name != "seconds"},
        "run": run_facts(),
    }
    Line(RESULTS / "scaling.jsonl", "cpu").write(found)
    print(json.dumps({name: found[name] for name in ("efficiency", "two_processes")}))


if __name__ == "__main__":
    main()
