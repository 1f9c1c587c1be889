"""The splits of a benchmark: from the hub, or from local files that are laid out as there."""

from pathlib import Path
from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.sources import read_source
from egup_trainer.errors import DataError

WRITTEN_OUT = Template(user="", assistant="", always=True, closed=False)
"""For benchmarks whose prompts are written out in full, and whose answers go on: no chat template, no end of turn."""

_FILES = ("{split}.jsonl", "{split}.json", "{split}.parquet", "{split}.csv", "{split}-00000-of-00001.parquet")


def read_split(hub_id: str, config: str, split: str, data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """The records of a split.

    Args:
        hub_id: of the benchmark on the hub.
        config: part of the benchmark; on disk a folder.
        split: its split; on disk a file.
        data_dir: folder with the files CONFIG/SPLIT.jsonl (or .json, .parquet, .csv); without it the hub is read.

    Raises:
        DataError: there is no such file, or it has no rows.
    """
    source = f"{hub_id}:{config}:{split}" if data_dir is None else _file(Path(data_dir) / config, split)
    records = read_source(source)
    if not records:
        raise DataError(got=f"no rows in {source}", expected="at least one row", fix="check the file")
    return records


def _file(folder: Path, split: str) -> str:
    paths = [folder / name.format(split=split) for name in _FILES]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise DataError(
            got=f"no {split} in {folder}",
            expected=f"{split}.jsonl, .json, .parquet or .csv",
            fix="check --data_dir",
        )
    return str(found)
