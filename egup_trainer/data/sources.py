"""Where rows come from: files, folders, hub ids, TOFU by name, or a `datasets.Dataset` -> typed rows."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from egup_trainer.data.files import READERS, Record, read_records
from egup_trainer.data.schema import Message, Row
from egup_trainer.errors import DataError

TOFU_HUB_ID = "locuslab/TOFU"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^:]+){0,2}")
_ROLES = ("system", "user", "assistant")
_LAYOUTS = "the columns question + answer, prompt + completion, messages, or text"


def load_rows(source: str | Path | Iterable[Mapping | Row], data_dir: str | Path | None = None) -> list[Row]:
    """Rows from anything a user may name.

    Args:
        source: one of

            - a path to a `.json`/`.jsonl`, `.csv` or `.parquet` file or to a folder of `datasets.save_to_disk`;
            - `tofu:NAME`, such as `tofu:forget10`: the file `NAME.json` in `data_dir`, or else the hub's copy;
            - a hub id, `owner/name[:config[:split]]` (split "train" unless named);
            - a `datasets.Dataset`, or any iterable of mappings or of `Row`.
        data_dir: local folder with the TOFU files, for `tofu:` sources.

    Returns:
        The rows in their order in the source.

    Raises:
        DataError: the source cannot be read, is empty, or a row lacks what it needs (the row is named by number).

    Example:
        >>> load_rows([{"question": "Who?", "answer": "Nobody."}])[0].answer
        'Nobody.'
    """
    if isinstance(source, str | Path):
        name = str(source)
        records: list[Any] = read_source(name, data_dir)
    elif isinstance(source, Mapping):
        raise DataError(
            got=f"a {type(source).__name__} with the keys {', '.join(_name(key) for key in source)}",
            expected="one set of rows",
            fix="name one of its splits",
        )
    else:
        name, records = "the given data set", list(source)
    if not records:
        raise DataError(got=f"no rows in {name}", expected="at least one row", fix="check the source")
    return [
        record if isinstance(record, Row) else to_row(record, name, number) for number, record in enumerate(records)
    ]


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
                    fix="remove it from one of them",
                )


def to_row(record: Mapping, source: str, number: int) -> Row:
    """One record of any supported layout -> `Row`; `source` and `number` are for error messages only."""
    if not isinstance(record, Mapping):
        raise DataError(
            got=f"a {type(record).__name__} as row {number} of {source}",
            expected=f"a mapping with {_LAYOUTS}",
            fix="give records, one a row",
        )
    if "messages" in record:
        row = _row_from_messages(record["messages"], source, number)
        return replace(row, alternates=_alternates(record, source, number))
    for prompt_column, answer_column in (("question", "answer"), ("prompt", "completion")):
        if prompt_column in record and answer_column in record:
            return _row_from_pair(record, prompt_column, answer_column, source, number)
    if "text" in record:
        return Row(prompt=(), answer=_text(record["text"], "text", source, number))
    columns = ", ".join(sorted(_name(column) for column in record)) or "none"
    raise DataError(
        got=f"the columns {columns} in row {number} of {source}", expected=_LAYOUTS, fix="rename the columns"
    )


def _name(value: object) -> str:
    """A column name or role for a message; never text of a row that stands in its place."""
    return str(value) if re.fullmatch(r"\w{1,24}", str(value)) else "(not a name)"


def _row_from_pair(record: Mapping, prompt_column: str, answer_column: str, source: str, number: int) -> Row:
    prompt, answer = record[prompt_column], record[answer_column]
    if isinstance(prompt, list) and isinstance(answer, list):
        row = _row_from_messages([*prompt, *answer], source, number)
        return replace(row, alternates=_alternates(record, source, number))
    paraphrase = record.get("paraphrased_answer")
    first, *others = _texts(answer, answer_column, source, number) if isinstance(answer, list) and answer else [answer]
    return Row(
        prompt=(Message("user", _text(prompt, prompt_column, source, number)),),
        answer=_text(first, answer_column, source, number),
        paraphrase=None if paraphrase is None else _text(paraphrase, "paraphrased_answer", source, number),
        perturbed=tuple(_texts(record.get("perturbed_answer"), "perturbed_answer", source, number)),
        alternatives=tuple(others),
        alternates=_alternates(record, source, number),
        **{
            f"{kind}_questions": tuple(_texts(record.get(f"{kind}_question"), f"{kind}_question", source, number))
            for kind in ("paraphrased", "translated")
        },
    )


def _alternates(record: Mapping, source: str, number: int) -> tuple[str, ...]:
    column = "alternate_answer" if "alternate_answer" in record else "alternate"
    return tuple(_texts(record.get(column), column, source, number))


def _texts(value: object, column: str, source: str, number: int) -> list[str]:
    """One text or a list of them; none for None."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    return [_text(item, column, source, number) for item in values]


def _row_from_messages(messages: object, source: str, number: int) -> Row:
    if not isinstance(messages, list) or not messages:
        raise DataError(
            got=f"a {type(messages).__name__} as messages in row {number} of {source}",
            expected='a non-empty list of {"role": ..., "content": ...}',
            fix="repair that row",
        )
    turns = [_turn(message, source, number) for message in messages]
    if turns[-1].role != "assistant":
        raise DataError(
            got=f"a last message of role {turns[-1].role} in row {number} of {source}",
            expected="role assistant: the last message is the answer that is scored",
            fix="repair that row",
        )
    return Row(prompt=tuple(turns[:-1]), answer=turns[-1].content)


def _turn(message: object, source: str, number: int) -> Message:
    if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
        role = message.get("role") if isinstance(message, Mapping) else type(message).__name__
        raise DataError(
            got=f"a message of role {_name(role)} in row {number} of {source}",
            expected=f"a role among {', '.join(_ROLES)}",
            fix="repair that row",
        )
    return Message(message["role"], _text(message.get("content"), "content", source, number))


def _text(value: object, column: str, source: str, number: int) -> str:
    if not isinstance(value, str):
        got = f"a {type(value).__name__} as {column} in row {number} of {source}"
    elif not value.strip():
        got = f"an empty {column} in row {number} of {source}"
    elif not _is_unicode(value):
        got = f"half a surrogate pair, which is no character, in {column} of row {number} of {source}"
    else:
        return value
    raise DataError(got=got, expected="text", fix="fill in or remove that row")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_source(source: str, data_dir: str | Path | None = None) -> list[Record]:
    """Records of a source that is named by a text, as they are: for layouts that are no rows yet.

    Raises:
        DataError: the source cannot be read.
    """
    if source.startswith("tofu:"):
        return _read_tofu(source.removeprefix("tofu:"), data_dir)
    path = Path(source)
    if os.path.exists(path) or path.suffix.lower() in READERS or not _HUB_ID.fullmatch(source):
        return read_records(path)
    hub_id, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    return _read_hub(hub_id, config or None, split or "train")


def _read_tofu(name: str, data_dir: str | Path | None) -> list[Record]:
    if data_dir is None:
        return _read_hub(TOFU_HUB_ID, name, "train")
    path = Path(data_dir) / f"{Path(name).name}.json"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in Path(data_dir).glob("*.json"))) or "no .json file"
        raise DataError(
            got=f"tofu:{name}, for which {data_dir} has no file", expected=f"one of: {names}", fix="check --data_dir"
        )
    return read_records(path)


def _read_hub(hub_id: str, config: str | None, split: str) -> list[Record]:
    import datasets

    try:
        # Rows and no code; which rows they were is in the record, by their fingerprint.
        return datasets.load_dataset(hub_id, config, split=split).to_list()  # nosec B615
    except Exception as error:  # the hub's client has no common base for "not there", "no network", "no such split"
        raise DataError(
            got=f"no data for {hub_id} (config {config}, split {split}): {type(error).__name__}",
            expected="a local path, or a hub id as owner/name[:config[:split]] that can be reached",
            fix="check the name and the network, or give a local file",
        ) from error
