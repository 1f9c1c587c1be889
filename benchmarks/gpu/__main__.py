"""`python -m benchmarks.gpu` checks on one GPU what is otherwise tested on CPUs; `--dry_run` does it on a CPU in small.

Each part runs in a process of its own and has a line in the results, which are written as it ends: whether it passed,
was skipped or failed, the reason, and every number beside the one that it was compared with. Models are made from
seeds; nothing is downloaded. The last line of the output is JSON: the status of each part.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from benchmarks import tables
from benchmarks.gpu.cases import Status
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.place import Place
from benchmarks.gpu.report import write_report
from benchmarks.gpu.running import Runner
from egup_trainer.errors import ConfigError

TABLE = tables.RESULTS / "gpu.jsonl"


def main(argv: list[str] | None = None) -> int:
    """Runs the parts that are asked for; the exit status is 1 if one of them has failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", metavar="PART", help="Which parts (default: all).")
    parser.add_argument("--minutes", type=float, default=12.0, help="Parts that do not fit any more are left out.")
    parser.add_argument("--dry_run", action="store_true", help="On the CPU, with a model of almost no size.")
    parser.add_argument("--output", type=Path, help="Table of results. Of a dry run, a temporary file by default.")
    parser.add_argument("--report", action="store_true", help="Only write docs/scaling.md's table, from the results.")
    options = parser.parse_args(argv)
    if options.report:
        write_report(TABLE)
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    unknown = [name for name in options.parts or () if name not in PARTS]
    if unknown:
        raise ConfigError(got=f"--parts {' '.join(unknown)}", expected=f"some of {' '.join(PARTS)}", fix="name those")
    with tempfile.TemporaryDirectory() as folder:
        table = options.output or (Path(tempfile.mkdtemp()) / "gpu.jsonl" if options.dry_run else TABLE)
        runner = Runner(Place(Path(folder), options.dry_run), table, options.minutes)
        lines = runner.run([PARTS[name] for name in options.parts or PARTS])
    print(f"Results in {table}")
    print(json.dumps({name: line["status"] for name, line in lines.items()}))
    return 1 if any(line["status"] == Status.FAILED.value for line in lines.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
