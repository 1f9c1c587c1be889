"""TOFU's files for the benchmarks: `python -m benchmarks.tofu --data_dir data/tofu` fetches them from the hub.

Without `--data_dir`, a benchmark reads the splits that it needs from the hub's copy, locuslab/TOFU.
"""

import argparse
import json
from pathlib import Path

from egup_trainer.data.sources import TOFU_HUB_ID, read_source
from egup_trainer.files import write_file

SPLITS = (
    "full",
    *(f"{kind}{share:02d}" for kind, shares in (("forget", (1, 5, 10)), ("retain", (90, 95, 99))) for share in shares),
    *(f"forget{share:02d}_perturbed" for share in (1, 5, 10)),
    "retain_perturbed",
    "real_authors_perturbed",
    "world_facts_perturbed",
)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds `--data_dir` to a benchmark's command."""
    parser.add_argument(
        "--data_dir",
        help=f"Folder with the files that `python -m benchmarks.tofu` writes; by default {TOFU_HUB_ID} on the hub.",
    )


def main() -> None:
    """Writes one JSON Lines file per split."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tofu", description=__doc__.split("\n")[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="Folder to write the files to.")
    options = parser.parse_args()
    for split in SPLITS:
        rows = read_source(f"tofu:{split}")
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_file(options.data_dir / f"{split}.json", text, private=False)
        print(f"{split}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()
