"""Local files -> records (one dict a row). Nothing is cached on disk: forget rows are not copied anywhere."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from egup_trainer.errors import DataError

Record = dict[str, object]

_FORMATS = ".json, .jsonl, .csv, .parquet, or a folder written by datasets' save_to_disk"


def read_records(path: Path) -> list[Record]:
    """Reads a local file or `datasets` folder.

    JSON may be one object a line or one list of objects; CSV needs a header line; text is UTF-8, with or without a
    byte-order mark.

    Raises:
        DataError: the path is missing, of an unknown format, unreadable, or a line is not an object.
    """
    if path.is_dir():
        return _read_dataset_folder(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(got=f"the file {path} of unknown format", expected=_FORMATS, fix="convert the file")
    try:
        records = reader(path)
    except UnicodeDecodeError as error:
        raise DataError(
            got=f"bytes in {path} that are not UTF-8 (at byte {error.start})",
            expected="UTF-8 text",
            fix="convert the file's encoding",
        ) from error
    except OSError as error:
        raise DataError(
            got=f"no readable file at {path} ({error.strerror or type(error).__name__})",
            expected=_FORMATS,
            fix="check the path and its permissions",
        ) from error
    return list(records)


def _read_json(path: Path) -> Iterable[Record]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        return _check_objects(path, "item", enumerate(_parse_json(path, text, "the list"), start=1))
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    parsed = ((number, _parse_json(path, line, f"line {number}")) for number, line in lines)
    return _check_objects(path, "line", parsed)


def _parse_json(path: Path, text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            got=f"{where} of {path} that is not JSON ({error.msg} at column {error.colno})",
            expected="one JSON object a line, or one list of objects",
            fix="repair that line",
        ) from error


def _check_objects(path: Path, unit: str, numbered: Iterable[tuple[int, object]]) -> list[Record]:
    records: list[Record] = []
    for number, value in numbered:
        if not isinstance(value, dict):
            raise DataError(
                got=f"a {type(value).__name__} at {unit} {number} of {path}",
                expected='a JSON object such as {"question": "...", "answer": "..."}',
                fix="repair that line",
            )
        records.append(value)
    return records


def _read_csv(path: Path) -> Iterable[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return [dict(record) for record in csv.DictReader(file, strict=True)]
        except csv.Error as error:
            raise DataError(
                got=f"{path}, which is not CSV ({error})",
                expected="a header line and comma-separated values",
                fix="repair the file",
            ) from error


def _read_parquet(path: Path) -> Iterable[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            got=f"{path}, which is not a Parquet file", expected="a Parquet file", fix="write the file again"
        ) from error


def _read_dataset_folder(path: Path) -> list[Record]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise DataError(
            got=f"the folder {path}, which is not a saved datasets.Dataset", expected=_FORMATS, fix="name a file"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        raise DataError(
            got=f"a DatasetDict in {path} with the splits {', '.join(loaded)}",
            expected="a single Dataset",
            fix=f"name one split's folder, for example {path / next(iter(loaded))}",
        )
    return loaded.to_list()


READERS = {".json": _read_json, ".jsonl": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
