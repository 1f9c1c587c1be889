"""Row -> token ids and labels. One tokenization of the whole text; its offsets decide what is scored."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cache
from string import ascii_letters
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from egup_trainer.data.long_rows import OnLongRow, fit, long_rows_line
from egup_trainer.data.rendering import render_chat, rendering
from egup_trainer.data.schema import IGNORE_INDEX, Message, Row, RowSource, TokenizedRow
from egup_trainer.data.sources import tell_dropped
from egup_trainer.errors import ConfigError, DataError, ModelError

_SENTINEL = "EgupTrainerAnswerPlace"
_NO_TEMPLATE = (
    "remove it for plain markers (chat_template.jinja in the tokenizer's folder, or tokenizer.chat_template = None)"
)


def today() -> str:
    """Today's date, as YYYY-MM-DD."""
    return date.today().isoformat()


@dataclass(frozen=True)
class Template:
    """How a prompt is written: the markers for a tokenizer without a chat template, and the date for one with it.

    Args:
        user: marker before a user turn.
        assistant: marker before an assistant turn, the scored answer among them.
        always: use the markers even where the tokenizer has a chat template.
        date: the day, as YYYY-MM-DD, that a chat template writes where it asks for today's date. A model gives other
            numbers on another day, so it stays the day on which the template was made.
        closed: whether an end-of-sequence token is appended to an answer that the markers stand before. A plain text
            never gets one: it goes on where the row stops.

    Raises:
        ConfigError: `date` is not a date.

    Example:
        >>> Template().render([Message("user", "Who?")])
        'Question: Who?\\nAnswer: '
    """

    user: str = "Question: "
    assistant: str = "\nAnswer: "
    always: bool = False
    date: str = field(default_factory=today)
    closed: bool = True

    def __post_init__(self) -> None:
        check_date(self.date)

    def dated(self, tokenizer: Any) -> str | None:
        """The tokenizer's chat template with `date` for today's; None, which stands for itself, if it asks for none."""
        return _date_macro(self.date) + tokenizer.get_chat_template() if writes_date(tokenizer) else None

    def render(self, prompt: Sequence[Message]) -> str:
        """The prompt's text, up to and including the marker before the answer ("" for a plain-text row)."""
        text = ""
        for message in prompt:
            marker = {"user": self.user, "assistant": self.assistant, "system": ""}[message.role]
            text += marker + message.content + ("" if message.role == "user" else "\n")
        return text + self.assistant if prompt else ""


@cache
def _date_macro(date: str) -> str:
    """A macro that takes the place of the function `strftime_now`, which transformers gives to chat templates.

    It replaces each directive of a format, such as %d, by its text at the start of that day. Functions cannot be passed
    to a chat template: transformers lets it see plain data alone.
    """
    day = datetime.fromisoformat(date)
    directives = [f"%{flag}{letter}" for flag in ("", *"-_0^#") for letter in ascii_letters]
    texts = {each: text for each in directives if (text := day.strftime(each)) != each}
    pairs = json.dumps([("%%", "\0"), *texts.items(), ("\0", "%")])
    return (
        "{% macro strftime_now(format) %}{% set all = namespace(text=format) %}"
        f"{{% for old, new in {pairs} %}}{{% set all.text = all.text.replace(old, new) %}}{{% endfor %}}"
        "{{ all.text }}{% endmacro %}\n"  # transformers drops a line break after a block
    )


def check_date(value: str | None) -> None:
    """Raises `ConfigError` for the value of template_date if it is given and is not a date as YYYY-MM-DD."""
    try:
        valid = value is None or date.fromisoformat(value).isoformat() == value
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            got=f"template_date={value}", expected="a date as YYYY-MM-DD", fix=f"set it as in template_date={today()}"
        )


def writes_date(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template asks for today's date."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None))


class RowDataset(Dataset):
    """Tokenized rows with stable integer ids: item `i` is `(i, TokenizedRow)`."""

    def __init__(self, rows: Sequence[TokenizedRow]):
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, TokenizedRow]:
        return index, self.rows[index]

    @property
    def owners(self) -> list[int]:
        """For each sample the place of the row that it is made of, from 0: a long row makes several samples."""
        keys = [index if row.source is None else (row.source.number,) for index, row in enumerate(self.rows)]
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        return [places[key] for key in keys]

    @property
    def cut(self) -> int:
        """How many rows were cut, or have a paraphrase or an alternate answer that was."""
        parts = [[row, row.paraphrase, row.alternate] for row in self.rows]
        is_cut = [any(part is not None and part.truncated for part in each) for each in parts]
        return len({owner for owner, cut in zip(self.owners, is_cut, strict=True) if cut})

    @property
    def in_windows(self) -> int:
        """How many rows make more than one sample."""
        return sum(count > 1 for count in Counter(self.owners).values())

    def long_rows_line(self, name: str, max_length: int) -> str | None:
        """What to tell of rows that are longer than `max_length`; None if there are none."""
        return long_rows_line(name, len(set(self.owners)), self.cut, self.in_windows, max_length)


def tokenize(
    rows: Iterable[Row],
    tokenizer: Any,
    *,
    name: str,
    max_length: int | None = None,
    template: Template | None = None,
    progress: bool = False,
    numbers: Sequence[int] | None = None,
    alternates: Sequence[str] | None = None,
    on_long_row: OnLongRow = OnLongRow.WINDOW,
) -> RowDataset:
    """Tokenizes rows through the tokenizer's chat template, or through `template` where it has none.

    The whole text is tokenized once. A token is scored if it reaches into the answer, so a token across the seam is
    never lost. One more token is scored, the one that closes the answer: the first end of a turn or of the sequence
    that the template writes after it, or an end-of-sequence token that is appended where the template writes none.
    Nothing stands after it. A plain text is not closed.
    A row that is longer than `max_length` makes several samples, which together score each answer token exactly once,
    unless `on_long_row` says otherwise: see `egup_trainer.data.long_rows.fit`.

    Args:
        rows: typed rows.
        tokenizer: a fast `PreTrainedTokenizerBase`.
        name: what the rows are ("forget set", ...), for messages.
        max_length: most tokens in a sample; None for no limit.
        template: markers for tokenizers without a chat template.
        progress: whether to show a progress bar.
        numbers: of the rows, for messages; by default their places.
        alternates: an answer for each row that an objective prefers to the row's own, to be tokenized with its prompt.
        on_long_row: what becomes of a row with a prompt that is longer than `max_length`.

    Raises:
        ModelError: the tokenizer is slow (no offsets) or its chat template drops the answer.
        DataError: a row was cut so that no scored token is left, or the chat template refuses it.
    """
    from tqdm.auto import tqdm

    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            got=f"the slow tokenizer {type(tokenizer).__name__}",
            expected="a fast tokenizer, which tells the offsets of its tokens",
            fix="load it with AutoTokenizer.from_pretrained; if that is slow, use a model with a tokenizer.json",
        )
    writer = _RowWriter.of(tokenizer, template)
    samples: list[TokenizedRow] = []
    with rendering(tokenizer):
        for place, row in enumerate(tqdm(rows, desc=f"Tokenizing {name}", disable=not progress, leave=False, delay=2)):
            where = f"row {place if numbers is None else numbers[place]} of the {name}"
            alternate = None if alternates is None else alternates[place]
            sample = _to_sample(row, writer, where, alternate)
            sample = replace(sample, source=RowSource.of(place, sample))
            samples += fit(sample, max_length, on_long_row, where, is_plain=not row.prompt)
    return RowDataset(samples)


def from_token_columns(
    records: Iterable[Mapping], name: str, max_length: int | None = None, on_long_row: OnLongRow = OnLongRow.WINDOW
) -> RowDataset:
    """Rows that come tokenized, with the columns `input_ids` and `labels` (-100 = not scored); maybe `attention_mask`.

    Tokens whose mask is 0 are padding and are left out. A row that is longer than `max_length` is treated as others
    are: split if all of it is scored, as a plain text is, and treated as `on_long_row` says otherwise.

    Raises:
        DataError: a column is not a list of whole numbers, the columns do not fit each other, or nothing is scored.
    """
    samples: list[TokenizedRow] = []
    for number, record in enumerate(records):
        where = f"row {number} of the {name}"
        sample = _without_padding(record, where)
        if not sample.is_scored[1:].any():
            raise DataError(
                got=f"no scored token in {where}",
                expected="a label that is not -100 on a token after the first",
                fix="repair that row",
            )
        sample = replace(sample, source=RowSource.of(number, sample))
        samples += fit(sample, max_length, on_long_row, where, is_plain=bool(sample.is_scored[1:].all()))
    return RowDataset(samples)


def _without_padding(record: Mapping, where: str) -> TokenizedRow:
    ids, labels = (_whole_numbers(record, column, where) for column in ("input_ids", "labels"))
    mask = np.ones_like(ids)
    if record.get("attention_mask") is not None:
        mask = _whole_numbers(record, "attention_mask", where)
    if not len(ids) == len(labels) == len(mask):
        raise DataError(
            got=f"{len(ids)} input_ids, {len(labels)} labels and an attention_mask of {len(mask)} in {where}",
            expected="one of each for a token",
            fix="repair that row",
        )
    kept = np.flatnonzero(mask)
    if not np.isin(mask, (0, 1)).all() or not len(kept) or len(kept) != kept[-1] - kept[0] + 1:
        raise DataError(
            got=f"an attention_mask in {where} that is not one run of 1 with 0 before and after it",
            expected="1 for each token of the row, and 0 for padding at its ends",
            fix="repair that row, or leave the attention_mask out if there is no padding",
        )
    ids, labels = ids[kept], labels[kept]
    if (ids < 0).any() or ((labels != IGNORE_INDEX) & (labels != ids)).any():
        raise DataError(
            got=f"an id below 0, or a label that is neither -100 nor its own token, in {where}",
            expected="labels that are not shifted: each is -100 or the token at its own place",
            fix="repair that row",
        )
    return TokenizedRow(ids, labels)


def _whole_numbers(record: Mapping, column: str, where: str) -> np.ndarray:
    """A column of one row as numbers of shape (T,), int32."""
    value: Any = record.get(column)
    try:
        numbers = np.asarray(value.tolist() if hasattr(value, "tolist") else value)
    except ValueError:  # lists of different lengths
        numbers = np.asarray(None)
    is_whole = numbers.size == 0 or (
        numbers.dtype.kind in "iub" and numbers.min() >= -(2**31) and numbers.max() < 2**31  # int32 would wrap around
    )
    if numbers.ndim != 1 or not is_whole:
        shape = f" of shape {numbers.shape}" if numbers.ndim else ""
        kind = type(value).__name__ if numbers.dtype.kind == "O" else f"{numbers.dtype} numbers"
        raise DataError(
            got=f"{'no ' + column if value is None else f'{column} as {kind}{shape}'} in {where}",
            expected="a flat list of whole numbers, one for each token",
            fix="repair that row",
        )
    return numbers.astype(np.int32)


def check_paraphrases(forget: RowDataset) -> None:
    """Raises `DataError` if a forget row has no paraphrase."""
    for row in forget.rows:
        if row.paraphrase is None:
            raise DataError(
                got=f"no paraphrased_answer in row {row.source.number} of the forget set",
                expected="one in every forget row, for clreg_positives=paraphrase, and no text longer than max_length",
                fix="use clreg_positives=forget or views",
            )


def keep_apart(first: RowDataset, first_name: str, second: RowDataset, second_name: str, *, drop: bool) -> RowDataset:
    """The second data set, whose rows, prompt and answer, do not stand in the first one.

    Args:
        drop: whether such rows are left out, which is logged, instead of refused.

    Raises:
        DataError: a row stands in both and is not to be dropped, or no row is left.
    """
    if not drop:
        check_disjoint(first, first_name, second, second_name)
        return second
    known = {row.source.key for row in first.rows}
    kept = [row for row in second.rows if row.source.key not in known]
    left, given = (len({row.source.number for row in rows}) for rows in (kept, second.rows))
    tell_dropped(left, given, second_name, first_name)
    return RowDataset(kept)


def check_disjoint(first: RowDataset, first_name: str, second: RowDataset, second_name: str) -> None:
    """Raises `DataError` if a row, prompt and answer, stands in both data sets."""
    positions = {row.source.key: row.source.number for row in first.rows}
    for row in second.rows:
        if row.source.key in positions:
            raise DataError(
                got=f"a row in both sets: row {positions[row.source.key]} of the {first_name} is row "
                f"{row.source.number} of the {second_name}",
                expected=f"no row (prompt and answer) in both the {first_name} and the {second_name}",
                fix=f"remove it from one of them, or leave out such rows of the {second_name} with --drop_overlap",
            )


def end_tokens(tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the end of sequence, and what the chat template writes after an answer, sorted.

    A chat template that refuses one question with its answer tells nothing.
    """
    from jinja2 import TemplateError

    found = {tokenizer.eos_token_id} - {None}
    if getattr(tokenizer, "chat_template", None):
        writer = _RowWriter.of(tokenizer, Template())
        try:
            sample = writer.sample(Row((Message("user", "a"),), "b"))
            found |= {int(sample.input_ids[-1])} & writer.marks
        except (TemplateError, ModelError):
            pass
    return sorted(found)


def _to_sample(row: Row, writer: "_RowWriter", where: str, alternate: str | None) -> TokenizedRow:
    """The whole row, tokenized, and its prompt with the alternate answer; refused in words that name it."""
    from jinja2 import TemplateError

    if row.alternatives:
        raise DataError(
            got=f"{1 + len(row.alternatives)} answers in {where}",
            expected="one, which is scored",
            fix="make one row of each answer",
        )
    try:
        sample = writer.sample(row)
        if row.paraphrase is not None:
            sample = replace(sample, paraphrase=writer.sample(Row(row.prompt, row.paraphrase)))
        if alternate is not None:
            sample = replace(sample, alternate=writer.sample(Row(row.prompt, alternate)))
        return sample
    except TemplateError as error:
        raise DataError(
            got=f"{where}, which the chat template refuses",
            expected="roles and turns that the template knows",
            fix=f"change the row, or {_NO_TEMPLATE}",
        ) from error


@dataclass(frozen=True)
class _Written:
    """The text of a whole row, and where its answer lies in it."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class _RowWriter:
    """Writes one prompt with one answer as text, and the text as tokens of which the answer is scored.

    Args:
        tokenizer: a fast one.
        template: markers for tokenizers without a chat template.
        marks: tokens that stand for themselves and for no piece of text, such as the end of a turn.
        dated: the chat template with its date set, or None for the tokenizer's own.
    """

    tokenizer: Any
    template: Template
    marks: frozenset[int]
    dated: str | None

    @classmethod
    def of(cls, tokenizer: Any, template: Template | None) -> "_RowWriter":
        """The writer of a tokenizer, whose marks are read once."""
        added = {token for token, content in tokenizer.added_tokens_decoder.items() if content.content.strip()}
        marks = (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
        template = template or Template()
        return cls(tokenizer, template, frozenset(marks), template.dated(tokenizer))

    def sample(self, row: Row) -> TokenizedRow:
        """The row's tokens, up to the one that closes its answer."""
        in_chat = bool(row.prompt and self.tokenizer.chat_template and not self.template.always)
        written = self._in_chat(row) if in_chat else self._with_markers(row)
        encoded = self.tokenizer(written.text, add_special_tokens=not in_chat, return_offsets_mapping=True)
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        starts, ends = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        # The offsets of a token of spaces may be empty. A mark that takes in the spaces before it is not of the answer.
        is_answer = (ends > written.start) & ((starts < written.end) | (ends <= written.end))
        is_answer &= ~(np.isin(ids, list(self.marks)) & (ends > written.end))
        if not is_answer.any():
            return TokenizedRow(ids, np.full_like(ids, IGNORE_INDEX))
        last, eos = int(np.flatnonzero(is_answer)[-1]), self.tokenizer.eos_token_id
        end = None
        if in_chat or (row.prompt and self.template.closed):
            is_visible = (bool(written.text[start:end].strip()) for start, end in zip(starts, ends, strict=True))
            end = self._end_after(last, ids, list(is_visible))
            if end is None and eos is not None:
                ids, end = np.append(ids, np.int32(eos)), len(ids)
        if int(ids[last]) in {eos, None if end is None else int(ids[end])} & self.marks:
            end = last  # the answer came with its end
        scored = np.flatnonzero(is_answer) if end in (None, last) else np.append(np.flatnonzero(is_answer), end)
        labels = np.full(scored[-1] + 1, IGNORE_INDEX, dtype=np.int32)
        labels[scored] = ids[scored]
        return TokenizedRow(ids[: len(labels)], labels, is_closed=end is not None)

    def _end_after(self, last: int, ids: np.ndarray, is_visible: list[bool]) -> int | None:
        """The place of the token that closes an answer whose last token stands at `last`, or None if none is written.

        Of an end that is written in several ordinary tokens it is the first, with which a model goes on.
        """
        after = range(last + 1, len(ids))
        marks = [place for place in after if int(ids[place]) in self.marks]
        return next(iter([*marks, *(place for place in after if is_visible[place])]), None)

    def _with_markers(self, row: Row) -> _Written:
        prompt = self.template.render(row.prompt)
        return _Written(prompt + row.answer, len(prompt), len(prompt) + len(row.answer))

    def _in_chat(self, row: Row) -> _Written:
        """What the chat template makes of the row; it tells itself what it writes before an answer and after it.

        Some write a block for thinking before it, some trim it, most write an end and a line break after it.
        """
        turns = [{"role": message.role, "content": message.content} for message in row.prompt]
        text = self._apply([*turns, {"role": "assistant", "content": row.answer}])
        sentinel = self._apply([*turns, {"role": "assistant", "content": _SENTINEL}])
        before, found, after = sentinel.rpartition(_SENTINEL)
        answer = row.answer.strip()
        for body in (text.removesuffix(after), text):  # some write no end after an answer that has its own
            start = len(before) if body[len(before) :].strip() == answer else body.rfind(answer)
            if found and start >= 0 and body[start:].strip() == answer:
                return _Written(text, start, len(body))
        raise ModelError(
            got="a chat template whose text does not hold the answer",
            expected="a template that writes the last assistant turn as it is",
            fix=f"repair the template, or {_NO_TEMPLATE}",
        )

    def _apply(self, turns: list[dict[str, str]]) -> str:
        return render_chat(self.tokenizer, turns, chat_template=self.dated)
