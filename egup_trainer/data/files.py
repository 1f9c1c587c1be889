"""Local files -> records (one dict a row). Nothing is cached on disk: forget rows are not copied anywhere."""

import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from egup_trainer.data.layouts import name_of
from egup_trainer.errors import DataError

logger = logging.getLogger(__name__)
Record = dict[str, object]

_LONGEST_FIELD = 2**31 - 1  # a CSV cell may hold a book; the csv module stops at 131,072 characters by default
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1024, 2**28
_FORMATS = ".json, .jsonl, .csv, .parquet, or a folder written by datasets' save_to_disk"


def read_records(path: Path) -> list[Record]:
    """All records of a local file or `datasets` folder; see `iterate_records`."""
    return list(iterate_records(path))


def iterate_records(path: Path) -> Iterator[Record]:
    """Records of a local file or `datasets` folder. No more of it is decoded than is asked for.

    JSON may be one object a line or one list of objects; CSV needs a header line, whose values may be set apart by
    commas, semicolons or tabs; text is UTF-8, with or without a byte-order mark.

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


class _TwiceError(ValueError):
    """An object has a key twice, of which JSON's reader would take the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _read_json(path: Path, data: bytes) -> Iterator[Record]:
    text = _decode(path, data)
    if text.lstrip().startswith("["):
        return _check_objects(path, "item", enumerate(_parse_json(path, text, "the list"), start=1))
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    parsed = ((number, _parse_json(path, line, f"line {number}")) for number, line in lines)
    return _check_objects(path, "line", parsed)


def _parse_json(path: Path, text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except _TwiceError as error:
        raise DataError(
            got=f"the key {name_of(error)} twice in one object, in {_where_twice(text) or where} of {path}",
            expected="each key once: of two values one would be lost",
            fix="repair that line",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            got=f"{where} of {path} that is not JSON ({_why_not_json(error)})",
            expected="one JSON object a line, or one list of objects",
            fix="repair that line",
        ) from error


def _where_twice(text: str) -> str | None:
    """Where the item of a list begins that has a key twice."""
    place = text.index("[") + 1 if text.lstrip().startswith("[") else None
    while place is not None:
        place = re.compile(r"[\s,]*").match(text, place).end()  # type: ignore[union-attr]  # matches nothing, too
        try:
            _, place = _DECODER.raw_decode(text, place)
        except _TwiceError:
            return f"the item on line {text.count(chr(10), 0, place) + 1}"
    return None


def _why_not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


def _check_objects(path: Path, unit: str, numbered: Iterable[tuple[int, object]]) -> Iterator[Record]:
    for number, value in numbered:
        if not isinstance(value, dict):
            raise DataError(
                got=f"a {type(value).__name__} at {unit} {number} of {path}",
                expected='a JSON object such as {"question": "...", "answer": "..."}',
                fix="repair that line",
            )
        yield value


def _read_csv(path: Path, data: bytes) -> Iterator[Record]:
    text = _decode(path, data)
    usual_limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        delimiter, names = _header(text)
        if len(set(names)) < len(names):  # of two columns with one name the last would win, unseen
            raise _not_csv(path, "two columns have the same name")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        for number, record in enumerate(reader):
            if None in record:
                raise _not_csv(path, f"row {number} has more values than the header")
            yield dict(record)
    except csv.Error as error:
        raise _not_csv(path, str(error)) from error
    finally:
        csv.field_size_limit(usual_limit)
    if delimiter != ",":
        logger.warning("%s: values are set apart by %s.", path, _DELIMITERS[delimiter])


def _header(text: str) -> tuple[str, list[str]]:
    """What sets values apart, and the names of the columns: whatever gives the most names; a comma if equal."""
    headers = {each: next(csv.reader(io.StringIO(text, newline=""), delimiter=each), []) for each in _DELIMITERS}
    delimiter = max(headers, key=lambda each: len(headers[each]))
    return delimiter, headers[delimiter]


def _not_csv(path: Path, reason: str) -> DataError:
    return DataError(
        got=f"{path}, which is not CSV ({reason})",
        expected="a header line, and values set apart by commas, semicolons or tabs",
        fix="repair the file",
    )


def _read_parquet(path: Path, data: bytes) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        for batch in file.iter_batches(batch_size=_rows_at_once(file)):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise DataError(
            got=f"{path}, which is not a Parquet file", expected="a Parquet file", fix="write the file again"
        ) from error


def _rows_at_once(file: Any) -> int:
    """So many rows that their text fits into memory even if each of them repeats the longest one there can be."""
    groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
    largest = max((group.total_byte_size for group in groups), default=1)
    return max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(largest, 1)))


def _read_dataset_folder(path: Path) -> Iterator[Record]:
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
    return records_of(loaded)


def records_of(data: Iterable[Any]) -> Iterator[Any]:
    """The items of the data; those of a `datasets.Dataset` as Python's own values, whatever format it was set to."""
    form = getattr(data, "format", None)
    if isinstance(form, dict) and form.get("type") not in (None, "custom"):  # custom: the user's own transform
        data = data.with_format(None, columns=form["columns"])  # type: ignore[attr-defined]
    return iter(data)


READERS = {".json": _read_json, ".jsonl": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
