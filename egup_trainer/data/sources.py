"""Where rows come from: files, folders, hub ids, TOFU by name, or a `datasets.Dataset` -> typed rows."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from egup_trainer.data.files import READERS, Record, iterate_records, records_of
from egup_trainer.data.layouts import ALPACA, COLUMNS, OPTIONAL, PAIRS, name_of, to_row
from egup_trainer.data.schema import Row
from egup_trainer.errors import ConfigError, DataError, did_you_mean

logger = logging.getLogger(__name__)

TOFU_HUB_ID = "locuslab/TOFU"
MAX_ROWS, MAX_CHARACTERS = 1_000_000, 2**30
"""What is read of one named source, at most: a small compressed file can hold more than the memory does."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^:]+){0,2}")
_SIMILAR = 0.85
"""From how alike to a column that is read a name is told to be nearly one, see `difflib`."""


def load_rows(
    source: str | Path | Iterable[Mapping | Row],
    data_dir: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    max_rows: int | None = None,
) -> list[Row]:
    """Rows from anything a user may name.

    Capital letters and spaces in the names of columns do not count. What is read under another name is logged, once.
    No more rows are decoded than `max_rows` asks for.

    Args:
        source: one of

            - a path to a `.json`/`.jsonl`, `.csv` or `.parquet` file or to a folder of `datasets.save_to_disk`;
            - `tofu:NAME`, such as `tofu:forget10`: the file `NAME.json` in `data_dir`, or else the hub's copy;
            - a hub id, `owner/name[:config[:split]]` (split "train" unless named);
            - a `datasets.Dataset`, or any iterable of mappings or of `Row`.
        data_dir: local folder with the TOFU files, for `tofu:` sources.
        columns: the source's own name of a column by the name under which it is read, as in `{"question": "q"}`. The
            files of TOFU are read as they are.
        max_rows: how many rows are read from the start of the source; all of them by default.

    Returns:
        The rows in their order in the source.

    Raises:
        DataError: the source cannot be read, is empty, has more than `MAX_ROWS` rows or `MAX_CHARACTERS` characters of
            text, lacks one of `columns`, or a row lacks what it needs (the row is named by number).

    Example:
        >>> load_rows([{"question": "Who?", "answer": "Nobody."}])[0].answer
        'Nobody.'
    """
    if isinstance(source, str | Path):
        name = str(source)
        records: Iterable[Any] = _records(name, data_dir)
    elif isinstance(source, Mapping):
        raise DataError(
            got=f"a {type(source).__name__} with the keys {', '.join(map(name_of, source))}",
            expected="one set of rows",
            fix="name one of its splits",
        )
    else:
        name, records = "the given data set", records_of(source)
    names = _Names(name, {} if name.startswith("tofu:") else dict(columns or {}))
    rows = _to_rows(islice(records, max_rows), names, is_bounded=isinstance(source, str | Path))
    if not rows:
        raise DataError(got=f"no rows in {name}", expected="at least one row", fix="check the source")
    names.tell()
    return rows


def _to_rows(records: Iterable[Any], names: "_Names", is_bounded: bool) -> list[Row]:
    rows: list[Row] = []
    characters = 0
    for number, record in enumerate(records):
        row = record if isinstance(record, Row) else to_row(names.rename(record), names.source, number)
        rows.append(row)
        characters += len(row.answer) + sum(len(message.content) for message in row.prompt)
        if is_bounded and (number >= MAX_ROWS or characters > MAX_CHARACTERS):
            raise DataError(
                got=f"more than {MAX_ROWS:,} rows, or {MAX_CHARACTERS:,} characters of them, in {names.source}",
                expected="no more than that: all rows are held in memory",
                fix="give a part of the rows, for example a sample",
            )
    return rows


def parse_columns(text: str | None) -> dict[str, str]:
    """Columns as the flag `--columns` names them.

    Raises:
        ConfigError: the text is not made of pairs, or a name on the left is not one under which a column is read.

    Example:
        >>> parse_columns("question=q,answer=a")
        {'question': 'q', 'answer': 'a'}
    """
    columns: dict[str, str] = {}
    for pair in (text or "").split(",") if text is not None else ():
        target, _, column = (part.strip() for part in pair.partition("="))
        if not target or not column or target in columns:
            raise ConfigError(
                got=f"--columns {text}",
                expected="pairs of two different names, such as question=q,answer=a",
                fix="set --columns",
            )
        if target not in COLUMNS:
            raise ConfigError(
                got=f"--columns with the name {target} on the left",
                expected=f"one of {', '.join(COLUMNS)}",
                fix=did_you_mean(target, COLUMNS, "write the name in the file on the right: question=NAME"),
            )
        columns[target] = column
    return columns


class _Names:
    """The names of the columns of one source, and under which names they are read."""

    def __init__(self, source: str, columns: dict[str, str]):
        self.source, self.columns = source, columns
        self._missing = dict(columns)
        self._renamed: dict[tuple, dict[Any, str]] = {}  # by the columns that a record has
        self._said: dict[str, None] = {}

    def rename(self, record: Any) -> Any:
        """The record under the names that are read."""
        if not isinstance(record, Mapping):
            return record
        found = tuple(record)
        if found not in self._renamed:
            is_first = not self._renamed
            self._renamed[found] = self._read_as(found)
            if is_first:
                self._check_found(set(COLUMNS) - set(OPTIONAL))
        new = self._renamed[found]
        if not new:
            return record
        return {new.get(name, name): record[name] for name in found if name in new or name not in new.values()}

    def tell(self) -> None:
        """Logs what is read under another name, in one line.

        Raises:
            DataError: one of the named columns is in no row.
        """
        self._check_found(set(COLUMNS))
        if self._said:
            logger.warning("%s: %s.", self.source, "; ".join(self._said))

    def _check_found(self, targets: set[str]) -> None:
        for target, column in self._missing.items():
            if target in targets:
                there = sorted({name_of(name) for names in self._renamed for name in names})
                raise DataError(
                    got=f"--columns {target}={column}, and no column {column} in {self.source}",
                    expected=f"one of its columns: {', '.join(there)}",
                    fix=did_you_mean(column, there, "change --columns, or rename the column in the file"),
                )

    def _read_as(self, found: tuple) -> dict[Any, str]:
        """The new name of each column that gets one."""
        alike: dict[str, list[Any]] = {}
        for name in found:
            alike.setdefault(_usual(name), []).append(name)
        new: dict[Any, str] = {}
        for target, column in self.columns.items():
            name = column if column in found else next(iter(alike.get(_usual(column), ())), None)
            if name is not None:
                new[name] = target
                self._missing.pop(target, None)
        for usual, names in alike.items():
            if usual not in COLUMNS or usual in new.values():
                continue
            if len(names) > 1:
                raise DataError(
                    got=f"{len(names)} columns of {self.source} that are named {usual}, capitals and spaces apart",
                    expected="one of that name",
                    fix="rename or remove the others",
                )
            if names[0] != usual and names[0] not in new:
                new[names[0]] = usual
        self._note(found, new)
        return new

    def _note(self, found: tuple, new: dict[Any, str]) -> None:
        notes = [f"{str(old).strip()} is read as {name}" for old, name in new.items()]
        columns = {*new.values(), *(name for name in found if name not in new)}
        if not columns & {"messages"} and not any({*pair} <= columns for pair in PAIRS):
            if "conversations" in columns:
                notes.append("conversations (from, value) are read as messages (ShareGPT)")
            elif {*ALPACA} <= columns:
                notes.append("instruction and input are read as the question, output as the answer (Alpaca)")
        for name in sorted(map(str, columns - set(COLUMNS))):
            near = get_close_matches(_usual(name), OPTIONAL, n=1, cutoff=_SIMILAR)
            if near and near[0] not in columns:
                notes.append(f"{name} is not read (did you mean {near[0]}? then --columns {near[0]}={name})")
        self._said |= dict.fromkeys(notes)


def _usual(name: object) -> str:
    """A name without capitals, and with _ for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def check_apart(forget: Iterable[Row], **others: Iterable[Row] | None) -> None:
    """Raises `DataError` if a forget row, prompt and answer, stands in another set, which is then no yardstick for it.

    Args:
        others: rows by the name of their set.
    """
    places = {(row.prompt, row.answer): number for number, row in enumerate(forget)}
    for name, rows in others.items():
        for number, row in enumerate(rows or ()):
            place = places.get((row.prompt, row.answer))
            if place is not None:
                raise DataError(
                    got=f"a row in both sets: row {place} of the forget set is row {number} of the {name} set",
                    expected=f"no row (prompt and answer) in both the forget set and the {name} set",
                    fix=f"remove it from one of them, or leave out such rows of the {name} set with --drop_overlap",
                )


def without_overlap(forget: list[Row], **others: list[Row] | None) -> dict[str, list[Row]]:
    """The sets by name, the forget set among them; rows of the others that are forget rows, too, are left out.

    Raises:
        DataError: nothing is left of a set.
    """
    known, sets = {(row.prompt, row.answer) for row in forget}, {"forget": forget}
    for name, rows in others.items():
        if rows is not None:
            sets[name] = [row for row in rows if (row.prompt, row.answer) not in known]
            tell_dropped(len(sets[name]), len(rows), f"{name} set", "forget set")
    return sets


def tell_dropped(kept: int, given: int, name: str, other: str) -> None:
    """Logs how many of the rows that were given are left out since they stand in another set, too.

    Raises:
        DataError: none are kept.
    """
    if not kept:
        raise DataError(
            got=f"no row in the {name} that is not in the {other}, too",
            expected="other rows than those to forget",
            fix=f"give another {name}",
        )
    if kept < given:
        logger.warning(
            "%d of %d rows of the %s are left out: they are in the %s, too.", given - kept, given, name, other
        )


def read_source(source: str, data_dir: str | Path | None = None) -> list[Record]:
    """Records of a source that is named by a text, as they are: for layouts that are no rows yet.

    Raises:
        DataError: the source cannot be read.
    """
    return list(_records(source, data_dir))


def _records(source: str, data_dir: str | Path | None) -> Iterator[Record]:
    if source.startswith("tofu:"):
        return _read_tofu(source.removeprefix("tofu:"), data_dir)
    path = Path(source)
    if os.path.exists(path) or path.suffix.lower() in READERS or not _HUB_ID.fullmatch(source):
        return iterate_records(path)
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
    return iterate_records(path)


def _read_hub(hub_id: str, config: str | None, split: str) -> Iterator[Record]:
    import datasets

    try:
        # Rows and no code; which rows they were is in the record, by their fingerprint.
        return records_of(datasets.load_dataset(hub_id, config, split=split))  # nosec B615
    except Exception as error:  # the hub's client has no common base for "not there", "no network", "no such split"
        raise DataError(
            got=f"no data for {hub_id} (config {config}, split {split}): {type(error).__name__}",
            expected="a local path, or a hub id as owner/name[:config[:split]] that can be reached",
            fix="check the name and the network, or give a local file",
        ) from error
