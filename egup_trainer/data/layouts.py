"""A record of any layout that the field uses -> a `Row`: which column is which, and what they hold."""

import ast
import json
import logging
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from egup_trainer.data.rendering import WRITE_OUT
from egup_trainer.data.schema import WRITTEN, Message, Row
from egup_trainer.errors import ConfigError, DataError, did_you_mean

logger = logging.getLogger(__name__)

PAIRS = (("question", "answer"), ("prompt", "completion"))
ALPACA, WITH_ALPACA = ("instruction", "output"), ("input", "system", "history")
OPTIONAL = (
    "paraphrased_answer",
    "perturbed_answer",
    "alternate_answer",
    "alternate",
    "paraphrased_question",
    "translated_question",
)
LAYOUT_COLUMNS = ("messages", *PAIRS[0], *PAIRS[1], "conversations", *ALPACA, *WITH_ALPACA, "text")
COLUMNS = (*LAYOUT_COLUMNS, *OPTIONAL)
"""Every column that is read; those of `WITH_ALPACA` only in that layout (and `system` in ShareGPT's)."""

_LAYOUTS = "the columns question + answer, prompt + completion, messages, conversations, instruction + output, or text"
_ROLES = ("system", "user", "assistant")
_ROLE_OF = {  # ShareGPT and related formats have several names for the two sides
    **{role: role for role in _ROLES},
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
}
_UNREAD_KEYS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
_UNREAD_COLUMNS = ("tools", "functions", "chat_template_kwargs")
"""Parts of a turn, and of a conversation, that chat templates write and that a `Row` cannot hold."""
_LIST_START = re.compile(r"\s*\[\s*([\[\]{\"']|null)")
_SIMILARITY = 0.85
"""From which similarity on an unread column is reported as nearly an optional one, see `difflib`."""


def parse_columns(text: str | None) -> dict[str, str]:
    """Column names in the form of the flag `--columns`.

    Raises:
        ConfigError: the text does not consist of pairs, or a name on the left is not that of a column that is read.

    Example:
        >>> parse_columns("question=q,answer=a")
        {'question': 'q', 'answer': 'a'}
    """
    columns: dict[str, str] = {}
    for pair in () if text is None else text.split(","):
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


_WRITTEN_BY = {"writer", "seed"}
"""Columns of rows that a model has written for this package (`egup proxy`), whose other columns have its names."""


class ColumnNames:
    """Renames the columns of one source to the names under which they are read; those of written rows have them.

    Args:
        columns: the source's own name of a column by the name under which it is read.
    """

    def __init__(self, source: str, columns: Mapping[str, str]):
        self.source, self.columns = source, columns
        self._missing = dict(columns)
        self._new_names: dict[tuple, dict[Any, str]] = {}  # by the columns that a record has
        self._notes: dict[str, None] = {}

    def rename(self, record: Any) -> Any:
        """The record under the names that are read."""
        if not isinstance(record, Mapping):
            return record
        found = tuple(record)
        if record.keys() >= _WRITTEN_BY:
            self._missing.clear()
        if found not in self._new_names:
            is_first = not self._new_names
            self._new_names[found] = self._rename_columns(found)
            if is_first:
                self._check_found(LAYOUT_COLUMNS)
        new = self._new_names[found]
        return {new.get(name, name): record[name] for name in found if name in new or name not in new.values()}

    def report(self) -> None:
        """Logs what was read under another name, in one line, once all records were renamed.

        Raises:
            DataError: one of the given columns is in no row.
        """
        self._check_found(COLUMNS)
        if self._notes:
            logger.warning("%s: %s.", self.source, "; ".join(self._notes))

    def _check_found(self, targets: tuple[str, ...]) -> None:
        for target, column in self._missing.items():
            if target in targets:
                available = sorted({safe_name(name) for names in self._new_names for name in names})
                raise DataError(
                    got=f"--columns {target}={column}, and no column {column} in {self.source}",
                    expected=f"one of its columns: {', '.join(available)}",
                    fix=did_you_mean(column, available, "change --columns, or rename the column in the file"),
                )

    def _rename_columns(self, found: tuple) -> dict[Any, str]:
        """The new name of each column that gets one."""
        by_standard_name: dict[str, list[Any]] = {}
        for name in found:
            by_standard_name.setdefault(_standard(name), []).append(name)
        new: dict[Any, str] = {}
        for target, column in self.columns.items():
            names = [column] if column in found else by_standard_name.get(_standard(column), [])[:1]
            if names:
                new[names[0]] = target
            elif target in found:  # one file has the user's names and another, such as written proxies, these
                self._notes[f"{target} is read as it is, without a column {column}"] = None
            else:
                continue
            self._missing.pop(target, None)
        for standard, names in by_standard_name.items():
            if standard not in COLUMNS or standard in new.values():
                continue
            if len(names) > 1:
                raise DataError(
                    got=f"{len(names)} columns of {self.source} that are named {standard}, apart from capitals and "
                    "spaces",
                    expected="one of that name",
                    fix="rename or remove the others",
                )
            if names[0] != standard and names[0] not in new:
                new[names[0]] = standard
        self._notes |= dict.fromkeys(_notes(found, new))
        return new


def _standard(name: object) -> str:
    """A column name in lower case, with _ for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def _notes(found: tuple, new: dict[Any, str]) -> list[str]:
    """What to report about columns that are read under a new name, or are not read."""
    notes = [f"{str(old).strip()} is read as {name}" for old, name in new.items()]
    columns = {*new.values(), *(name for name in found if name not in new)}
    if "messages" not in columns and not any({*pair} <= columns for pair in PAIRS):
        if "conversations" in columns:
            notes.append("conversations (from, value) are read as messages (ShareGPT)")
        elif {*ALPACA} <= columns:
            notes.append("instruction and input are read as the question, output as the answer (Alpaca)")
    for name in sorted(map(str, columns - set(COLUMNS))):
        near = get_close_matches(_standard(name), OPTIONAL, n=1, cutoff=_SIMILARITY)
        if near and near[0] not in columns:
            notes.append(f"{name} is not read (did you mean {near[0]}? then --columns {near[0]}={name})")
    return notes


def safe_name(value: object) -> str:
    """A column name or role for a message; never text of a row that is in its place."""
    return str(value) if re.fullmatch(r"\w{1,24}", str(value)) else "(not a name)"


def to_row(record: Mapping, source: str, number: int) -> Row:
    """One record of any supported layout as a `Row`; `source` and `number` are only used in error messages.

    Raises:
        DataError: the record has no such layout, or a part of it is not text.
    """
    where = f"row {number} of {source}"
    if not isinstance(record, Mapping):
        raise DataError(
            got=f"a {type(record).__name__} as {where}",
            expected=f"a mapping with {_LAYOUTS}",
            fix="give records, one per row",
        )
    prompt, answer, *others = _prompt_and_answers(record, where)
    # A prompt that is written out is joined to its answer as it is: other answers need the spaces that this one has.
    lead = answer[: len(answer) - len(answer.lstrip())] if prompt and prompt[-1].role == WRITTEN else ""

    def after_prompt(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(text if text[:1].isspace() else lead + text for text in texts)

    paraphrase = record.get("paraphrased_answer")
    paraphrases = [] if _is_blank(paraphrase) else [_text(paraphrase, "paraphrased_answer", where)]
    return Row(
        prompt,
        answer,
        paraphrase=next(iter(after_prompt(paraphrases)), None),
        perturbed=after_prompt(_texts(record, "perturbed_answer", where)),
        alternatives=after_prompt(others),
        alternates=after_prompt(
            _texts(record, "alternate_answer", where) or _texts(record, "alternate", where),
        ),
        paraphrased_questions=_texts(record, "paraphrased_question", where),
        translated_questions=_texts(record, "translated_question", where),
    )


def _prompt_and_answers(record: Mapping, where: str) -> tuple:
    """The turns before the answer, the answer, and further correct answers."""
    filled = {name: value for name, value in record.items() if not _is_blank(value) or _has_partner(name, record)}
    found = _read_layout(filled, where) or _read_layout(record, where)  # the second says which value is missing
    if found is not None:
        return found
    columns = ", ".join(sorted(map(safe_name, record))) or "none"
    fix = (
        "rename the columns, or say which is which: --columns question=NAME,answer=NAME, or in Python "
        'load_rows(SOURCE, columns={"question": "NAME", "answer": "NAME"})'
    )
    if where.endswith((".csv", ".tsv")):
        fix = f"if the first line is a row, put a line of names above it, such as question,answer; else {fix}"
    raise DataError(got=f"the columns {columns} in {where}", expected=_LAYOUTS, fix=fix)


def _has_partner(column: Any, record: Mapping) -> bool:
    """Whether another column of the same layout has a value: a row whose answer alone is missing is a broken row."""
    layouts = (*PAIRS, ALPACA)
    return any(not _is_blank(record.get(other)) for names in layouts if column in names for other in names)


def _read_layout(record: Mapping, where: str) -> tuple | None:
    """The same, in the first layout of which the record has all columns; None if it has no such layout."""
    if "messages" in record:
        return _dialogue(record, record["messages"], where)
    for prompt_column, answer_column in PAIRS:
        if prompt_column in record and answer_column in record:
            return _pair(record, prompt_column, answer_column, where)
    if "conversations" in record:
        return _dialogue(record, record["conversations"], where, _system(record, where))
    if all(column in record for column in ALPACA):
        return _alpaca(record, where)
    if "text" in record:
        return (), _text(record["text"], "text", where)
    return None


def _pair(record: Mapping, prompt_column: str, answer_column: str, where: str) -> tuple:
    turns, reply = _turn_list(record[prompt_column]), _turn_list(record[answer_column])
    if turns is not None and reply is not None:
        return _dialogue(record, [*turns, *reply], where)
    answer = _plain(record[answer_column])
    answers = answer if isinstance(answer, list) and answer else [answer]
    role = WRITTEN if prompt_column == "prompt" else "user"
    question = Message(role, _text(record[prompt_column], prompt_column, where))
    return (question,), *(_text(each, answer_column, where) for each in answers)


def _alpaca(record: Mapping, where: str) -> tuple:
    """Alpaca's instruction with its input on the next line, after the earlier questions and answers in `history`."""
    turns = _system(record, where)
    for pair in _listed(record.get("history")) or ():
        pair = _plain(pair)
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(
                got=f"a history in {where} that does not consist of pairs",
                expected="a list of pairs of a question and its answer",
                fix="repair that row",
            )
        turns += [Message(role, _text(text, "history", where)) for role, text in zip(_ROLES[1:], pair, strict=True)]
    question = _text(record["instruction"], "instruction", where)
    if not _is_blank(record.get("input")):
        question += "\n" + _text(record["input"], "input", where)
    return (*turns, Message("user", question)), _text(record["output"], "output", where)


def _system(record: Mapping, where: str) -> list[Message]:
    value = record.get("system")
    return [] if _is_blank(value) else [Message("system", _text(value, "system", where))]


def _dialogue(record: Mapping, messages: object, where: str, before: list[Message] | None = None) -> tuple:
    """All turns but the last, and the last, which is the answer."""
    _refuse_unread(record, _UNREAD_COLUMNS, where)
    messages = _listed(messages)
    if not isinstance(messages, list) or not messages:
        raise DataError(
            got=f"a {type(messages).__name__} as messages in {where}",
            expected='a non-empty list of {"role": ..., "content": ...}',
            fix="repair that row",
        )
    *turns, last = [*(before or []), *(_turn(message, where) for message in messages)]
    if last.role != "assistant":
        raise DataError(
            got=f"a last message of role {last.role} in {where}",
            expected="role assistant: the last message is the answer that is scored",
            fix="repair that row",
        )
    if not turns:
        raise DataError(
            got=f"an answer without a turn before it in {where}",
            expected="a question before the answer",
            fix="add the question, or give a plain text as the column text",
        )
    return tuple(turns), last.content


def _turn(message: object, where: str) -> Message:
    turn = message if isinstance(message, Mapping) else {"role": type(message).__name__}
    is_sharegpt = "role" not in turn and "from" in turn
    role_key, text_key = ("from", "value") if is_sharegpt else ("role", "content")
    role = turn.get(role_key)
    if not isinstance(message, Mapping) or str(role).lower() not in _ROLE_OF:
        raise DataError(
            got=f"a message of role {safe_name(role)} in {where}",
            expected=f"a role among {', '.join(_ROLES)}",
            fix=f"repair that row, or {WRITE_OUT}",
        )
    _refuse_unread(turn, _UNREAD_KEYS, where)
    role, content = _ROLE_OF[str(role).lower()], _joined(turn.get(text_key), where)
    if role == "system" and content == "":  # it keeps a chat template from writing a system prompt of its own
        return Message(role, "")
    return Message(role, _text(content, text_key, where))


def _refuse_unread(record: Mapping, names: tuple[str, ...], where: str) -> None:
    """Raises `DataError` for what would be neither forgotten nor measured."""
    found = [name for name in names if not _is_blank(record.get(name)) and _listed(record[name]) not in ([], {})]
    if found:
        raise DataError(got=f"{', '.join(found)} in {where}", expected="turns that hold only text", fix=WRITE_OUT)


def _joined(content: object, where: str) -> object:
    """The text of a content that is a list of text parts; any other content unchanged."""
    parts = _plain(content)
    if not isinstance(parts, list) or not parts:
        return content
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        kinds = {safe_name(part.get("type") if isinstance(part, Mapping) else type(part).__name__) for part in parts}
        raise DataError(
            got=f"a content of parts of the type {', '.join(sorted(kinds))} in {where}",
            expected='text, or parts of the type text: [{"type": "text", "text": "..."}]',
            fix="remove that row, or its other parts",
        )
    return "".join(map(str, texts))


def _texts(record: Mapping, column: str, where: str) -> tuple[str, ...]:
    """The texts of an optional column, which holds one text or a list of them; a blank cell holds none."""
    value = record.get(column)
    if _is_blank(value):
        return ()
    values = _listed(value)
    if isinstance(values, str) and _LIST_START.match(values) and values.rstrip().endswith("]"):
        raise DataError(
            got=f"a {column} in {where} that begins as a list and cannot be read as one",
            expected='a text, or a list as JSON writes it: ["...", "..."]',
            fix="write that cell again, for example with json.dumps",
        )
    return tuple(_text(item, column, where) for item in (values if isinstance(values, list) else [values]))


def _plain(value: Any) -> Any:
    """Arrays, tensors and tuples as lists, and their scalars as Python's."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, tuple) else value


def _is_blank(value: object) -> bool:
    """Whether an optional cell is empty: null, NaN, or only white space."""
    value = _plain(value)
    if isinstance(value, str):
        return not value.strip()
    is_nan = isinstance(value, float) and value != value
    return value is None or type(value).__name__ in ("NAType", "NaTType") or is_nan


def _listed(value: object) -> Any:
    """The list that a text spells, as in CSV cells, as JSON or as Python writes it; any other value unchanged."""
    value = _plain(value)
    if not isinstance(value, str) or not _LIST_START.match(value):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # Python takes ['a' 'b'], as NumPy writes two texts, for one text: what it writes back shows the difference.
        if isinstance(found, list) and (read is json.loads or repr(found) == value.strip()):
            return found
    return value


def _turn_list(value: object) -> list | None:
    """The value as a list of messages, or None if it is something else."""
    value = _plain(value)
    if isinstance(value, str) and re.match(r"\s*\[\s*\{", value):
        value = _listed(value)
        return value if isinstance(value, list) and all(isinstance(each, dict) for each in value) else None
    return value if isinstance(value, list) else None


def _text(value: object, column: str, where: str) -> str:
    """The value, which must be a text that is not blank and that tokenizers can read."""
    value = _plain(value)
    if not isinstance(value, str):
        got = f"a {type(value).__name__} as {column} in {where}"
    elif not value.strip():
        got = f"an empty {column} in {where}"
    else:
        try:
            value.encode("utf-8")
            return value
        except UnicodeEncodeError:
            got = f"half a surrogate pair, which is not a character, in {column} of {where}"
    raise DataError(got=got, expected="text", fix="fill in or remove that row")
