"""A record of any layout that the field uses -> a `Row`: first prompt and answer, then the optional columns."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from egup_trainer.data.schema import Message, Row
from egup_trainer.errors import DataError

PAIRS = (("question", "answer"), ("prompt", "completion"))
ALPACA, BESIDE_ALPACA = ("instruction", "output"), ("input", "system", "history")
OPTIONAL = (
    "paraphrased_answer",
    "perturbed_answer",
    "alternate_answer",
    "alternate",
    "paraphrased_question",
    "translated_question",
)
COLUMNS = (
    "messages",
    "question",
    "answer",
    "prompt",
    "completion",
    "conversations",
    *ALPACA,
    *BESIDE_ALPACA,
    "text",
    *OPTIONAL,
)
"""Every column that is read; those of `BESIDE_ALPACA` in that layout alone (`system` in ShareGPT's, too)."""

_ROLES = ("system", "user", "assistant")
_ROLE_OF = {  # ShareGPT and its kin name the two sides in several ways
    **{role: role for role in _ROLES},
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
}
_LIST_START = re.compile(r"\s*\[\s*([\[\]{\"']|null)")
_LAYOUTS = "the columns question + answer, prompt + completion, messages, conversations, instruction + output, or text"


def to_row(record: Mapping, source: str, number: int) -> Row:
    """One record of any supported layout -> `Row`; `source` and `number` are for error messages only.

    Raises:
        DataError: it is none of them, or a part of it is not text.
    """
    where = f"row {number} of {source}"
    if not isinstance(record, Mapping):
        raise DataError(
            got=f"a {type(record).__name__} as {where}",
            expected=f"a mapping with {_LAYOUTS}",
            fix="give records, one a row",
        )
    prompt, answer, *others = _prompt_and_answers(record, where)
    return Row(prompt, answer, alternatives=tuple(others), **_optional(record, where))


def name_of(value: object) -> str:
    """A column name or role for a message; never text of a row that stands in its place."""
    return str(value) if re.fullmatch(r"\w{1,24}", str(value)) else "(not a name)"


def _prompt_and_answers(record: Mapping, where: str) -> tuple:
    """The turns before the answer, the answer, and further right answers."""
    if "messages" in record:
        return _dialogue(record["messages"], where)
    for prompt_column, answer_column in PAIRS:
        if prompt_column in record and answer_column in record:
            return _pair(record[prompt_column], record[answer_column], prompt_column, answer_column, where)
    if "conversations" in record:
        return _dialogue(record["conversations"], where, _system(record, where))
    if all(column in record for column in ALPACA):
        return _alpaca(record, where)
    if "text" in record:
        return (), _text(record["text"], "text", where)
    columns = ", ".join(sorted(map(name_of, record))) or "none"
    raise DataError(
        got=f"the columns {columns} in {where}",
        expected=_LAYOUTS,
        fix="rename the columns, or say which is which, for example --columns question=NAME,answer=NAME",
    )


def _pair(prompt: object, answer: object, prompt_column: str, answer_column: str, where: str) -> tuple:
    turns, reply = _turn_list(prompt), _turn_list(answer)
    if turns is not None and reply is not None:
        return _dialogue([*turns, *reply], where)
    answer = _plain(answer)
    answers = answer if isinstance(answer, list) and answer else [answer]
    question = Message("user", _text(prompt, prompt_column, where))
    return (question,), *(_text(each, answer_column, where) for each in answers)


def _alpaca(record: Mapping, where: str) -> tuple:
    """Alpaca's instruction with its input on the next line, after the earlier questions and answers in `history`."""
    turns = _system(record, where)
    for pair in _listed(record.get("history")) or ():
        pair = _plain(pair)
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(
                got=f"a history in {where} that is not made of pairs",
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


def _dialogue(messages: object, where: str, before: list[Message] | None = None) -> tuple:
    """All turns but the last, and the last, which is the answer."""
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
    return tuple(turns), last.content


def _turn(message: object, where: str) -> Message:
    turn = message if isinstance(message, Mapping) else {"role": type(message).__name__}
    is_sharegpt = "role" not in turn and "from" in turn
    role_key, text_key = ("from", "value") if is_sharegpt else ("role", "content")
    role = turn.get(role_key)
    if not isinstance(message, Mapping) or str(role).lower() not in _ROLE_OF:
        raise DataError(
            got=f"a message of role {name_of(role)} in {where}",
            expected=f"a role among {', '.join(_ROLES)}",
            fix="repair that row",
        )
    return Message(_ROLE_OF[str(role).lower()], _text(turn.get(text_key), text_key, where))


def _optional(record: Mapping, where: str) -> dict[str, Any]:
    """What the columns that any layout may have besides say of the row; a blank cell says nothing."""

    def texts(column: str) -> tuple[str, ...]:
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

    paraphrase = record.get("paraphrased_answer")
    return {
        "paraphrase": None if _is_blank(paraphrase) else _text(paraphrase, "paraphrased_answer", where),
        "perturbed": texts("perturbed_answer"),
        "alternates": texts("alternate_answer") or texts("alternate"),
        "paraphrased_questions": texts("paraphrased_question"),
        "translated_questions": texts("translated_question"),
    }


def _plain(value: Any) -> Any:
    """Arrays, tensors and tuples as lists, their scalars as Python's."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, tuple) else value


def _is_blank(value: object) -> bool:
    """Whether an optional cell holds nothing: null, NaN, or white space alone."""
    value = _plain(value)
    if isinstance(value, str):
        return not value.strip()
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _listed(value: object) -> Any:
    """The list that a text spells, as CSV cells do, in JSON or as Python writes it; any other value as it is."""
    value = _plain(value)
    if not isinstance(value, str) or not _LIST_START.match(value):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # Python takes ['a' 'b'], as NumPy writes two texts, for one: what it writes back shows the difference.
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
    value = _plain(value)
    if not isinstance(value, str):
        got = f"a {type(value).__name__} as {column} in {where}"
    elif not value.strip():
        got = f"an empty {column} in {where}"
    elif not _is_unicode(value):
        got = f"half a surrogate pair, which is no character, in {column} of {where}"
    else:
        return value
    raise DataError(got=got, expected="text", fix="fill in or remove that row")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
