"""`python tests/faults/kills.py`: kills runs at random moments and compares how they end, bit by bit.

20 kills by default, dealt out to six kinds of runs; some of them kill a run twice.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

TESTS = Path(__file__).resolve().parents[1]
KINDS = ("full", "two processes", "workers", "lora", "four bits", "early stop")


def run(folder: Path, kind: str, kill_after: float | None = None) -> float | None:
    """Runs to the end, or kills the run so many seconds after its first step began.

    Returns:
        Seconds from the first step to the end, or None if the run was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = [sys.executable]
    if kind == "two processes":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    with (folder / "stderr.log").open("a") as errors:
        process = subprocess.Popen(
            [*start, str(TESTS / "faults" / "kill_worker.py"), str(folder), kind],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    with process:
        process.stdout.readline()
        begin = time.perf_counter()
        try:
            process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        end = time.perf_counter()
    if process.returncode:
        raise RuntimeError((folder / "stderr.log").read_text()[-3000:])
    return end - begin


def ending(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and training state at the end of a run."""
    return torch.load(folder / "end.pt")


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not the same bit by bit."""
    assert first.keys() == second.keys()
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def kill_and_resume(folder: Path, kind: str, moments: list[float]) -> list[Path]:
    """Kills a run at each moment in turn, then lets it end.

    Returns:
        The checkpoints that there were after each kill.
    """
    left = []
    for moment in moments:
        run(folder, kind, kill_after=moment)
        left += sorted(folder.glob("checkpoint-*"))
    run(folder, kind)
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, wrong = random.Random(options.seed), 0
    with TemporaryDirectory() as folder:
        whole = {}
        run(Path(folder), "bases")
        for number in range(options.kills):
            kind = KINDS[number % len(KINDS)]
            if kind not in whole:
                seconds = run(Path(folder) / kind / "whole", kind)
                whole[kind] = seconds, ending(Path(folder) / kind / "whole")
            seconds, expected = whole[kind]
            moments = [draw.uniform(0, seconds) for _ in range(1 + number % 2)]
            cut = Path(folder) / kind / str(number)
            left = kill_and_resume(cut, kind, moments)
            names = differing(expected, ending(cut))
            wrong += bool(names)
            shown = ", ".join(f"{moment:.2f}" for moment in moments)
            print(f"{kind}: killed at {shown} of {seconds:.2f} s, {len(left)} checkpoints left: ", end="")
            print(f"{len(names)} tensors differ" if names else "the same", flush=True)
    print(f"{options.kills - wrong} of {options.kills} end as if they had not been killed")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
