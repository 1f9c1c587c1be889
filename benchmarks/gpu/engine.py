"""A process of `benchmarks.gpu.parts.engines`: the short run, under the engine that `accelerate launch` chose."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu.place import Place
from benchmarks.gpu.training import PAIRS, train
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.files import write_file


def main() -> None:
    """Trains; the first process writes what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.engine", description=__doc__)
    parser.add_argument("folder", type=Path, help="With the small model.")
    parser.add_argument("output", type=Path, help="File for the outcome.")
    parser.add_argument("precision", choices=["no", "bf16"])
    parser.add_argument("processes", type=int, help="Among which the rows of a step are divided.")
    parser.add_argument("--dry_run", action="store_true", help="Train on the CPU.")
    options = parser.parse_args()
    quiet_libraries()
    place = Place(options.folder, options.dry_run)
    rows = PAIRS // options.processes
    found = train(place, bf16=options.precision == "bf16", per_device_train_batch_size=rows)

    from accelerate import PartialState

    if PartialState().is_main_process:
        write_file(options.output, json.dumps(asdict(found)), private=False)


if __name__ == "__main__":
    main()
