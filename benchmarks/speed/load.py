"""What a large forget set takes: `python -m benchmarks.speed.load` trains on 1,000 and on 100,000 made-up rows.

Each size runs in a process of its own: most memory that the process held, the scan's file and a checkpoint's state, and
what both files should take by counting their numbers. What should hold: files within 1% of the count; memory that grows
with rows and not with steps.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.speed.measure import in_process_of_its_own
from benchmarks.speed.report import LOAD_RESULTS, write_report
from benchmarks.speed.scale import PROXIES, RETAIN, make_trainer
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.components.step_log import peak_memory_gb
from egup_trainer.conditions import STATE_NAME
from egup_trainer.records.facts import run_facts

SIZES = (1_000, 100_000)
STEPS = (20, 200)
"""Of a short and a long run."""
NUMBER = 4
"""Bytes of a number in a file."""


def load_of(num_forget: int, steps: int) -> dict[str, float]:
    """Memory and files of a run on so many forget rows."""
    quiet_libraries()
    with TemporaryDirectory() as name:
        folder = Path(name)
        trainer = make_trainer(num_forget, steps, folder, callbacks=[], save_strategy="steps", save_steps=steps)
        trainer.train()
        size = trainer.model.config.hidden_size
        scan = sum(path.stat().st_size for path in (folder / "_scan").iterdir())
        state = (folder / f"checkpoint-{steps}" / STATE_NAME).stat().st_size
        return {
            "rows": num_forget,
            "steps": steps,
            "peak_memory_gb": peak_memory_gb(),
            "scan_mb": scan / 1e6,
            "scan_counted_mb": (num_forget + RETAIN + PROXIES) * (size + 2) * NUMBER / 1e6,
            "state_mb": state / 1e6,
            "state_counted_mb": _count_state(trainer) / 1e6,
        }


def _count_state(trainer: Any) -> int:
    """Bytes of a checkpoint's state, by what it holds.

    Of each forget sample: features before and now in two bytes a number, its proxies, and four numbers (boundary,
    drift, entanglement, L before). Of each retain row: features before, and its place in the bank, whose features are
    float32.
    """
    size, options = trainer.model.config.hidden_size, trainer.args
    forget = len(trainer.forget_rows) * (2 * 2 * size + NUMBER * (options.proxy_neighbors + 4))
    return forget + RETAIN * (2 * size + 8) + NUMBER * size * (options.bank_size + 1)


def main() -> None:
    """Measures, writes the results, and prints them."""
    argparse.ArgumentParser(prog="python -m benchmarks.speed.load", description=__doc__.split("\n")[0]).parse_args()
    found = []
    for size in SIZES:
        for steps in STEPS:
            found.append(in_process_of_its_own(load_of, size, steps))
            print(json.dumps(found[-1]), flush=True)
    LOAD_RESULTS.write({"runs": found, "run": run_facts()})
    write_report()


if __name__ == "__main__":
    main()
