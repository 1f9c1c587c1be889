"""Local files -> records (one dict a row). Nothing is cached on disk: forget rows are not copied anywhere."""

import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from egup_trainer.errors import DataError

Record = dict[str, object]

_LONGEST_FIELD = 2**31 - 1  # a CSV cell may hold a book; the csv module stops at 131,072 characters by default
_FORMATS = ".json, .jsonl, .csv, .parquet, or a folder written by datasets' save_to_disk"


def read_records(path: Path) -> list[Record]:
    """Reads a local file or `datasets` folder.

    JSON may be one object a line or one list of objects; CSV needs a header line; text is UTF-8, with or without a
    byte-order mark.

    Raises:
        DataError: the path is missing, of an unknown format, unreadable, or a line is not an object.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that no file can have
        return _read_dataset_folder(path)
    reader: Any = READERS.get(path.suffix.lower())
    if reader is None and os.path.exists(path):
        raise DataError(got=f"the file {path} of unknown format", expected=_FORMATS, fix="convert the file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            got=f"no readable file at {path} ({error.strerror or type(error).__name__})",
            expected=_FORMATS,
            fix="check the path and its permissions",
        ) from error
    return reader(path, data)


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            got=f"bytes in {path} that are not UTF-8 (at byte {error.start})",
            expected="UTF-8 text",
            fix="convert the file's encoding",
        ) from error


def _read_json(path: Path, data: bytes) -> list[Record]:
    text = _decode(path, data)
    if text.lstrip().startswith("["):
        return _check_objects(path, "item", enumerate(_parse_json(path, text, "the list"), start=1))
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    parsed = ((number, _parse_json(path, line, f"line {number}")) for number, line in lines)
    return _check_objects(path, "line", parsed)


def _parse_json(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            got=f"{where} of {path} that is not JSON ({_why_not_json(error)})",
            expected="one JSON object a line, or one list of objects",
            fix="repair that line",
        ) from error


def _why_not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


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


def _read_csv(path: Path, data: bytes) -> list[Record]:
    reader = csv.DictReader(io.StringIO(_decode(path, data), newline=""), strict=True)
    usual_limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        names, records = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise _not_csv(path, str(error)) from error
    finally:
        csv.field_size_limit(usual_limit)
    if len(set(names)) < len(names):  # of two columns with one name the last would win, unseen
        raise _not_csv(path, "two columns have the same name")
    for number, record in enumerate(records):
        if None in record:
            raise _not_csv(path, f"row {number} has more values than the header")
    return [dict(record) for record in records]


def _not_csv(path: Path, reason: str) -> DataError:
    return DataError(
        got=f"{path}, which is not CSV ({reason})",
        expected="a header line and comma-separated values",
        fix="repair the file",
    )


def _read_parquet(path: Path, data: bytes) -> list[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise DataError(
            got=f"{path}, which is not a Parquet file", expected="a Parquet file", fix="write the file again"
        ) from error


def _read_dataset_folder(path: Path) -> list[Record]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (ValueError, OSError, KeyError, TypeError) as error:
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
