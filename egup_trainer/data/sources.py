"""Where rows come from: files, folders, hub ids, TOFU by name, or a `datasets.Dataset` -> records -> typed rows.

Nothing is cached on disk, so that forget rows are not copied anywhere.
"""

import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from egup_trainer.data.layouts import LAYOUT_COLUMNS, ColumnNames, safe_name, to_row
from egup_trainer.data.schema import Row
from egup_trainer.errors import DataError

logger = logging.getLogger(__name__)
Record = dict[str, object]
Source = str | Path | Iterable[Mapping | Row]
"""What rows may be given as: see `load_rows`."""

TOFU_HUB_ID = "locuslab/TOFU"
MAX_ROWS, MAX_CHARACTERS = 1_000_000, 2**30
"""Limits for one named source: a small compressed file can hold more than fits into memory."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^:]+){0,2}")
_FORMATS = ".json, .jsonl, .ndjson, .csv, .tsv, .parquet, or a folder written by datasets' save_to_disk"
_NAMES_CHOICES = re.compile("Unknown split|Bad split|Config name is missing|BuilderConfig")
_MAX_FIELD = 2**31 - 1  # a CSV cell may hold a book; the csv module stops at 131,072 characters by default
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1024, 2**28


def load_rows(
    source: Source,
    data_dir: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    max_rows: int | None = None,
) -> list[Row]:
    """Rows from anything a user may name.

    Capital letters and spaces in column names are ignored. What is read under another name is logged, once. No more
    rows are decoded than `max_rows` asks for.

    Args:
        source: one of

            - a path to a `.json`, `.jsonl`, `.ndjson`, `.csv`, `.tsv` or `.parquet` file, or to a folder of
              `datasets.save_to_disk`;
            - `tofu:NAME`, such as `tofu:forget10`: the file `NAME.json` in `data_dir`, or else the copy on the hub;
            - a hub id, `owner/name[:config[:split]]` (split "train" unless named);
            - a `datasets.Dataset`, a pandas `DataFrame`, or any iterable of mappings or of `Row`.
        data_dir: local folder with the TOFU files, for `tofu:` sources.
        columns: the source's own name of a column by the name under which it is read, as in `{"question": "q"}`. The
            TOFU files are read as they are.
        max_rows: how many rows to read from the start of the source; all of them by default.

    Returns:
        The rows in their order in the source.

    Raises:
        DataError: the source cannot be read, is empty, has more than `MAX_ROWS` rows or `MAX_CHARACTERS` characters of
            text, lacks one of `columns`, or a row lacks what it needs (the row is named by number).

    Example:
        >>> load_rows([{"question": "Who?", "answer": "Nobody."}])[0].answer
        'Nobody.'
    """
    return list(iter_rows(source, data_dir, columns, max_rows))


def iter_rows(
    source: Source,
    data_dir: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    max_rows: int | None = None,
) -> Iterator[Row]:
    """The rows of `load_rows`, one at a time, so that their texts need not all be in memory.

    Raises:
        DataError: as in `load_rows`.
    """
    is_named = isinstance(source, str | Path)
    name = str(source) if is_named else "the given data set"
    records = _records(name, data_dir) if is_named else records_of(source)  # type: ignore[arg-type]
    names = ColumnNames(name, {} if name.startswith("tofu:") else columns or {})
    number, characters = -1, 0
    for number, record in enumerate(islice(records, max_rows)):
        row = record if isinstance(record, Row) else to_row(names.rename(record), name, number)
        characters += len(row.answer) + sum(len(message.content) for message in row.prompt)
        if is_named and (number >= MAX_ROWS or characters > MAX_CHARACTERS):
            raise DataError(
                got=f"more than {MAX_ROWS:,} rows, or {MAX_CHARACTERS:,} characters of them, in {name}",
                expected="no more than that: all rows are held in memory",
                fix="give a part of the rows, for example a sample",
            )
        yield row
    if number < 0:
        raise DataError(got=f"no rows in {name}", expected="at least one row", fix="check the source")
    names.report()


def records_of(data: Iterable[Any]) -> Iterator[Any]:
    """The items of the data; those of a `datasets.Dataset` as Python's own values, whatever its format is.

    Those of a pandas `DataFrame` are its rows.

    Raises:
        DataError: the data is a mapping, such as a `DatasetDict`, one row, or a dict of columns.
    """
    if isinstance(data, Mapping):
        has_columns = not {"input_ids", *LAYOUT_COLUMNS}.isdisjoint(data)
        raise DataError(
            got=f"a {type(data).__name__} with the keys {', '.join(map(safe_name, data))}",
            expected="one set of rows",
            fix="give a list of rows ([row]), or datasets.Dataset.from_dict(columns)"
            if has_columns
            else "name one of its splits",
        )
    if hasattr(data, "iterrows"):  # a pandas.DataFrame, whose items are the names of its columns
        return iter(data.to_dict("records"))  # type: ignore[attr-defined]
    form = getattr(data, "format", None)
    if isinstance(form, dict) and form.get("type") not in (None, "custom"):  # custom: the user's own transform
        data = data.with_format(None, columns=form["columns"])  # type: ignore[attr-defined]
    return iter(data)


def read_source(source: str, data_dir: str | Path | None = None) -> list[Record]:
    """Records of a source that is named by a text, unchanged: for layouts that are not rows yet.

    Raises:
        DataError: the source cannot be read.
    """
    return list(_records(source, data_dir))


def _records(source: str, data_dir: str | Path | None) -> Iterator[Record]:
    if source.startswith("tofu:"):
        return _read_tofu(source.removeprefix("tofu:"), data_dir)
    path = Path(source)
    if os.path.exists(path) or path.suffix.lower() in _READERS or not _HUB_ID.fullmatch(source):
        return read_path(path)
    hub_id, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    return _read_hub(hub_id, config or None, split or "train")


def _read_tofu(name: str, data_dir: str | Path | None) -> Iterator[Record]:
    if data_dir is None:
        return _read_hub(TOFU_HUB_ID, name, "train")
    path = Path(data_dir) / f"{Path(name).name}.json"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in Path(data_dir).glob("*.json"))) or "no .json file"
        raise DataError(
            got=f"tofu:{name}, for which {data_dir} has no file", expected=f"one of: {names}", fix="check --data_dir"
        )
    return read_path(path)


def _read_hub(hub_id: str, config: str | None, split: str) -> Iterator[Record]:
    import datasets

    try:
        # Rows and no code; the record tells which rows they were by their fingerprint.
        return records_of(datasets.load_dataset(hub_id, config, split=split))  # nosec B615
    except Exception as error:  # the hub's client has no common base for "not there", "no network", "no such split"
        # Other messages may hold a part of a row.
        why = " ".join(str(error).split()) if _NAMES_CHOICES.match(str(error)) else type(error).__name__
        raise DataError(
            got=f"no data for {hub_id} (config {config}, split {split}): {why}",
            expected="a local path, or a hub id as owner/name[:config[:split]] that can be reached",
            fix="check the name and the network, or give a local file",
        ) from error


def read_path(path: Path) -> Iterator[Record]:
    """Records of a local file or `datasets` folder. No more of it is decoded than is asked for.

    JSON may be one object per line or one list of objects. CSV needs a header line; its values may be separated by
    commas, semicolons or tabs. Text is UTF-8, with or without a byte-order mark.

    Raises:
        DataError: the path is missing, of an unknown format or unreadable, or a line is not an object.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that no file can have
        return _read_dataset_folder(path)
    reader = _READERS.get(path.suffix.lower())
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
    return reader(path, data)  # type: ignore[misc]  # a path without a reader cannot be read, either


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            got=f"bytes in {path} that are not UTF-8 (at byte {error.start})",
            expected="UTF-8 text",
            fix="convert the file's encoding",
        ) from error


class _DuplicateKeyError(ValueError):
    """An object has a key twice, of which JSON's reader would take the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _read_json(path: Path, data: bytes) -> Iterator[Record]:
    text = _decode(path, data)
    values: Iterable[tuple[int, Any]]
    if text.lstrip().startswith("["):
        unit, values = "item", enumerate(_parse_json(path, text, "the list"), start=1)
    else:
        lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
        unit, values = "line", ((number, _parse_json(path, line, f"line {number}")) for number, line in lines)
    for number, value in values:
        if not isinstance(value, dict):
            raise DataError(
                got=f"a {type(value).__name__} at {unit} {number} of {path}",
                expected='a JSON object such as {"question": "...", "answer": "..."}',
                fix="repair that line",
            )
        yield value


def _parse_json(path: Path, text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except _DuplicateKeyError as error:
        raise DataError(
            got=f"the key {safe_name(error)} twice in one object, in {_duplicate_item(text) or where} of {path}",
            expected="each key once: of two values one would be lost",
            fix="repair that line",
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        if isinstance(error, json.JSONDecodeError):
            line = f"line {error.lineno}, " if error.lineno > 1 else ""
            reason = f"{error.msg} at {line}column {error.colno}"
        raise DataError(
            got=f"{where} of {path} that is not JSON ({reason})",
            expected="one JSON object per line, or one list of objects",
            fix="repair that line",
        ) from error


def _duplicate_item(text: str) -> str | None:
    """Where the item of a list begins that has a key twice."""
    if not text.lstrip().startswith("["):
        return None
    position = text.index("[") + 1
    while True:
        while text[position] in " \t\r\n,":
            position += 1
        try:
            _, position = _DECODER.raw_decode(text, position)
        except _DuplicateKeyError:
            return f"the item on line {text.count(chr(10), 0, position) + 1}"


def _read_csv(path: Path, data: bytes) -> Iterator[Record]:
    """Rows of a CSV file by the csv module: pandas would move the values of a row with one too many by one column."""
    text = _decode(path, data).lstrip("\r\n")
    usual_limit, reader = csv.field_size_limit(_MAX_FIELD), None
    try:
        headers = {each: next(csv.reader(io.StringIO(text, newline=""), delimiter=each), []) for each in _DELIMITERS}
        delimiter = max(headers, key=lambda each: len(headers[each]))  # the first, a comma, if several are equal
        if len(set(headers[delimiter])) < len(headers[delimiter]):  # the last of two would win without notice
            raise csv.Error("two columns have the same name")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        for number, record in enumerate(reader):
            if None in record:
                raise csv.Error(f"row {number} has more values than the header")
            yield dict(record)
    except csv.Error as error:
        near = "" if reader is None else f", at line {reader.reader.line_num}"
        raise DataError(
            got=f"{path}, which is not CSV ({error}{near})",
            expected="a header line, and values separated by commas, semicolons or tabs",
            fix="repair the file: a value with a separator or a quotation mark stands in quotation marks, and those "
            "inside it are written twice",
        ) from error
    finally:
        csv.field_size_limit(usual_limit)
    if delimiter != ",":
        logger.warning("%s: values are separated by %s.", path, _DELIMITERS[delimiter])


def _read_parquet(path: Path, data: bytes) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        # So few rows at once that their text fits into memory even if each row repeats the longest text possible.
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        largest = max((group.total_byte_size for group in groups), default=1)
        batch_size = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(largest, 1)))
        for batch in file.iter_batches(batch_size=batch_size):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise DataError(
            got=f"{path}, which cannot be read as a Parquet file ({type(error).__name__})",
            expected="a Parquet file of texts, lists and numbers",
            fix="write the file again",
        ) from error


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


_READERS = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _read_json),
    **dict.fromkeys((".csv", ".tsv"), _read_csv),
    ".parquet": _read_parquet,
}
