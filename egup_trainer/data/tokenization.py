"""Text -> token ids and labels -> samples of at most `max_length` tokens.

The whole text of a row is tokenized once, and the offsets of its tokens decide which of them are scored.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from egup_trainer.data.rendering import USE_MARKERS, Renderer, Template
from egup_trainer.data.schema import IGNORE_INDEX, NO_SOURCE, Message, OnLongRow, Row, RowSource, TokenizedRow
from egup_trainer.errors import DataError, LostAnswerError, ModelError


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
        """For each sample the index of the row that it was made from, counted from 0: a long row makes several."""
        keys = [index if row.source == NO_SOURCE else (row.source.number,) for index, row in enumerate(self.rows)]
        indices = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        return [indices[key] for key in keys]

    @property
    def first_samples(self) -> list[int]:
        """The first sample of each row: a long row makes several."""
        firsts: dict[int, int] = {}
        for index, owner in enumerate(self.owners):
            firsts.setdefault(owner, index)
        return list(firsts.values())

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
        """See the function `long_rows_line`."""
        return long_rows_line(name, len(set(self.owners)), self.cut, self.in_windows, max_length)


def long_rows_line(name: str, rows: int, cut: int, in_windows: int, max_length: int) -> str | None:
    """What to report about the rows of a set that are longer than `max_length`; None if there are none."""
    if cut:
        return (
            f"{name}: {cut} of {rows} rows are longer than max_length={max_length} tokens and were cut. The rest of "
            "them is neither trained nor measured: raise --max_length or set --on_long_row window."
        )
    if in_windows:
        long = f"{in_windows} of {rows} rows are longer than max_length={max_length} tokens"
        return f"{name}: {long} and are read in windows."
    return None


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
    with_paraphrases: bool = False,
    on_long_row: OnLongRow = OnLongRow.WINDOW,
) -> RowDataset:
    """Tokenizes rows through the tokenizer's chat template, or through `template` if it has none.

    The whole text is tokenized once. A token is scored if it reaches into the answer, so a token across the boundary
    between prompt and answer is never lost. One more token is scored, the one that closes the answer: the first end of
    a turn or of the sequence that the chat template writes after it, or an end-of-sequence token, which is appended if
    the template writes none. Nothing follows it. A plain text is not closed.
    A row that is longer than `max_length` makes several samples, which together score each answer token exactly once,
    unless `on_long_row` says otherwise: see `fit`.

    Args:
        tokenizer: a fast `PreTrainedTokenizerBase`.
        name: what the rows are ("forget set", ...), for messages.
        max_length: maximum number of tokens per sample; None for no limit.
        template: markers for tokenizers without a chat template.
        numbers: the rows' numbers in messages; by default their indices.
        alternates: for each row an answer that the objective prefers to the row's own, tokenized with its prompt.
        with_paraphrases: whether the paraphrases that rows have are tokenized with their prompts, too.
        on_long_row: what to do with a row that has a prompt and is longer than `max_length`.

    Raises:
        ModelError: the tokenizer is slow (no offsets) or its chat template drops the answer.
        DataError: a row was cut so that no scored token is left, or the chat template refuses it.
    """
    from tqdm.auto import tqdm

    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            got=f"the slow tokenizer {type(tokenizer).__name__}",
            expected="a fast tokenizer, which knows the offsets of its tokens",
            fix="load it with AutoTokenizer.from_pretrained; if that is slow, use a model with a tokenizer.json",
        )
    samples: list[TokenizedRow] = []
    with Renderer(tokenizer, template) as renderer:
        encoder = _RowEncoder.of(renderer)
        for index, row in enumerate(tqdm(rows, desc=f"Tokenizing {name}", disable=not progress, leave=False, delay=2)):
            where = f"row {index if numbers is None else numbers[index]} of the {name}"
            alternate = None if alternates is None else alternates[index]
            sample = encoder.encode_with_others(row, where, row.paraphrase if with_paraphrases else None, alternate)
            sample = replace(sample, source=RowSource.of(index, sample, row.text_key()))
            samples += fit(sample, max_length, on_long_row, where, is_plain=not row.prompt)
    return RowDataset(samples)


@contextmanager
def refused_by_template(where: str) -> Iterator[None]:
    """Names the row, `where`, that the chat template refuses or whose answer it loses.

    Raises:
        DataError: the chat template refuses the row.
        LostAnswerError: it does not write the answer as it is.
    """
    from jinja2 import TemplateError

    try:
        yield
    except LostAnswerError as error:
        raise LostAnswerError(got=f"{error.got} of {where}", expected=error.expected, fix=error.fix) from error
    except TemplateError as error:
        raise DataError(
            got=f"{where}, which the chat template refuses",
            expected="roles and turns that the template knows",
            fix=f"change the row, or {USE_MARKERS}",
        ) from error


@dataclass(frozen=True)
class _RowEncoder:
    """Turns one prompt with one answer into tokens, of which the answer is scored.

    Args:
        control_tokens: ids of tokens that do not stand for a piece of text, such as the end of a turn.
        ends: those of them that end an answer: the end of sequence, and what the chat template writes after an answer.
    """

    renderer: Renderer
    control_tokens: frozenset[int]
    ends: frozenset[int]

    @classmethod
    def of(cls, renderer: Renderer) -> "_RowEncoder":
        """The encoder for the renderer's tokenizer."""
        from jinja2 import TemplateError

        tokenizer = renderer.tokenizer
        added = {token for token, content in tokenizer.added_tokens_decoder.items() if content.content.strip()}
        controls = frozenset((added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id})
        encoder = cls(renderer, controls, controls & {tokenizer.eos_token_id})
        if not tokenizer.chat_template:
            return encoder
        try:
            last = int(encoder.encode(Row((Message("user", "a"),), "b")).input_ids[-1])
        except (TemplateError, ModelError):  # a chat template that refuses one question with its answer
            return encoder
        return replace(encoder, ends=encoder.ends | ({last} & controls))

    def encode_with_others(self, row: Row, where: str, paraphrase: str | None, alternate: str | None) -> TokenizedRow:
        """The whole row, and its prompt with the paraphrase and with the alternate answer, where these are given.

        Raises:
            DataError: the row has several answers, or the chat template refuses it.
        """
        if row.alternatives:
            raise DataError(
                got=f"{1 + len(row.alternatives)} answers in {where}",
                expected="one, which is scored",
                fix="make one row of each answer",
            )
        with refused_by_template(where):
            sample = self.encode(row)
            if paraphrase is not None:
                sample = replace(sample, paraphrase=self.encode(Row(row.prompt, paraphrase)))
            if alternate is not None:
                sample = replace(sample, alternate=self.encode(Row(row.prompt, alternate)))
        return sample

    def encode(self, row: Row) -> TokenizedRow:
        """The row's tokens, up to the one that closes its answer."""
        tokenizer, text = self.renderer.tokenizer, self.renderer.row(row)
        has_start = text.is_chat or (bool(tokenizer.bos_token) and text.text.startswith(tokenizer.bos_token))
        encoded = tokenizer(text.text, add_special_tokens=not has_start, return_offsets_mapping=True)
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        starts, ends = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        # The offsets of a token of spaces may be empty, and a control token may take in the spaces on either side.
        is_answer = (ends > text.start) & ((starts < text.end) | (ends <= text.end))
        for index in np.flatnonzero(is_answer & np.isin(ids, list(self.control_tokens))):
            written = starts[index] + len(text.text[starts[index] : ends[index]].rstrip())
            is_answer[index] = text.start < written and ends[index] <= text.end
        if not is_answer.any():
            return TokenizedRow(ids, np.full_like(ids, IGNORE_INDEX))
        last, eos = int(np.flatnonzero(is_answer)[-1]), tokenizer.eos_token_id
        end = last if int(ids[last]) in self.ends else None  # the answer came with its end
        if end is None and (text.is_chat or (row.prompt and self.renderer.template.closed)):
            is_visible = [bool(text.text[start:end].strip()) for start, end in zip(starts, ends, strict=True)]
            end = self._end_after(last, ids, is_visible)
            if end is None and eos is not None:
                ids, end = np.append(ids, np.int32(eos)), len(ids)
        scored = np.flatnonzero(is_answer) if end in (None, last) else np.append(np.flatnonzero(is_answer), end)
        labels = np.full(scored[-1] + 1, IGNORE_INDEX, dtype=np.int32)
        labels[scored] = ids[scored]
        return TokenizedRow(ids[: len(labels)], labels, is_closed=end is not None)

    def _end_after(self, last: int, ids: np.ndarray, is_visible: list[bool]) -> int | None:
        """Index of the token that closes an answer whose last token is at `last`, or None if there is none.

        If the end is written in several ordinary tokens, it is the first of them, with which a model would go on.
        """
        after = range(last + 1, len(ids))
        controls = [index for index in after if int(ids[index]) in self.control_tokens]
        return next(iter([*controls, *(index for index in after if is_visible[index])]), None)


def end_tokens(tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the end of sequence, and what the chat template writes after an answer, sorted.

    A chat template that refuses one question with its answer adds none.
    """
    found = {tokenizer.eos_token_id} - {None}
    if getattr(tokenizer, "chat_template", None):
        with Renderer(tokenizer) as renderer:
            found |= _RowEncoder.of(renderer).ends
    return sorted(found)


# Rows that are longer than the model reads at once


def fit(
    row: TokenizedRow, max_length: int | None, on_long_row: OnLongRow, where: str, is_plain: bool
) -> list[TokenizedRow]:
    """The samples of at most `max_length` tokens that a row makes; together they score each answer token exactly once.

    Only `OnLongRow.CUT` leaves out the answer tokens that do not fit. A paraphrase or an alternate answer is never read
    in windows, since there is one for each sample: what does not fit of it is left out, too.

    Args:
        max_length: maximum number of tokens per sample; None for no limit.
        on_long_row: what to do with a longer row.
        is_plain: whether it is a plain text, which is split into pieces that overlap by one token.

    Raises:
        DataError: the row is longer and `on_long_row` is "error", or no answer token is left.
    """
    if max_length is not None and on_long_row is OnLongRow.ERROR and not is_plain:
        longest = max(len(each) for each in (row, row.paraphrase, row.alternate) if each is not None)
        if longest > max_length:
            raise DataError(
                got=f"{longest} tokens in {where}",
                expected=f"at most max_length={max_length}",
                fix=f"set --max_length {longest}, or --on_long_row window to read it in several windows",
            )
    if max_length is not None and len(row) > max_length >= 2 and _has_scored_token(row.labels):
        if is_plain:
            return _pieces(row, max_length)
        if on_long_row is OnLongRow.WINDOW:
            return [_cut_others(each, max_length, where) for each in _windows(row, max_length)]
    return [_cut(row, max_length, where)]


def _has_scored_token(labels: np.ndarray) -> bool:
    return bool((labels[1:] != IGNORE_INDEX).any())  # the first token has no context to be predicted from


def _cut(row: TokenizedRow, max_length: int | None, where: str) -> TokenizedRow:
    cut = replace(
        row,
        input_ids=row.input_ids[:max_length].copy(),  # a view would keep the whole row in memory
        labels=row.labels[:max_length].copy(),
        truncated=max_length is not None and len(row) > max_length,
        is_closed=row.is_closed and len(row.labels[:max_length]) == len(row),
    )
    if not _has_scored_token(row.labels):
        raise DataError(
            got=f"no answer token in {where}, of {len(row)} tokens",
            expected="at least one answer token with a token before it",
            fix="lengthen or remove that row",
        )
    if not _has_scored_token(cut.labels):
        raise DataError(
            got=f"no answer token in {where}, of whose {len(row)} tokens {len(cut)} are kept",
            expected="at least one answer token",
            fix="raise --max_length or shorten the prompt",
        )
    return _cut_others(cut, max_length, where)


def _cut_others(row: TokenizedRow, max_length: int | None, where: str) -> TokenizedRow:
    """The sample with its paraphrase and alternate answer cut."""
    paraphrase = row.paraphrase and _cut(row.paraphrase, max_length, f"the paraphrase in {where}")
    alternate = row.alternate and _cut(row.alternate, max_length, f"the alternate answer in {where}")
    return replace(row, paraphrase=paraphrase, alternate=alternate)


def _pieces(row: TokenizedRow, max_length: int) -> list[TokenizedRow]:
    pieces = []
    for start in range(0, len(row) - 1, max_length - 1):
        ids, labels = row.input_ids[start : start + max_length], row.labels[start : start + max_length].copy()
        if start:
            labels[0] = IGNORE_INDEX  # scored at the end of the piece before
        is_closed = row.is_closed and start + max_length >= len(row)
        # A paraphrase of the whole text is not one of a piece.
        pieces.append(replace(row, input_ids=ids, labels=labels, is_closed=is_closed, paraphrase=None))
    return pieces


def _windows(row: TokenizedRow, max_length: int) -> list[TokenizedRow]:
    """The row's first `max_length` tokens, then windows of the prompt, of tokens scored before, and of tokens to score.

    A prompt that takes more than half of a window appears only in the first one; if the prompt is longer than a window,
    only its end does. Half of what the prompt leaves is context, so each token is scored with at least that much.
    """
    scored = 1 + np.flatnonzero(row.labels[1:] != IGNORE_INDEX)
    first, end = int(scored[0]), int(scored[-1]) + 1
    half = max_length // 2
    head = np.arange(first if first <= half else 0)
    start = 0 if first < max_length else first - half
    done, windows = first, [np.arange(start, min(start + max_length, end))]
    while (last := int(windows[-1][-1]) + 1) < end:
        room = max_length - len(head)
        stop = min(last + room - room // 2, end)
        begin = max(stop - room, len(head))
        windows.append(np.concatenate([head, np.arange(begin, stop)]))
    samples = []
    for indices in windows:
        labels = np.where(indices >= done, row.labels[indices], IGNORE_INDEX).astype(np.int32)
        done = int(indices[-1]) + 1
        if _has_scored_token(labels):
            is_closed = row.is_closed and done == len(row)
            samples.append(replace(row, input_ids=row.input_ids[indices], labels=labels, is_closed=is_closed))
    return samples


# Rows that come tokenized


def from_token_columns(
    records: Iterable[Mapping], name: str, max_length: int | None = None, on_long_row: OnLongRow = OnLongRow.WINDOW
) -> RowDataset:
    """Tokenized rows with the columns `input_ids` and `labels` (-100 = not scored), and optionally `attention_mask`.

    Tokens whose mask is 0 are padding and are left out. A row that is longer than `max_length` is treated like any
    other: it is split if all of it is scored, as a plain text is, and otherwise treated as `on_long_row` says.

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
            expected="one of each per token",
            fix="repair that row",
        )
    kept = np.flatnonzero(mask)
    if not np.isin(mask, (0, 1)).all() or not len(kept) or len(kept) != kept[-1] - kept[0] + 1:
        raise DataError(
            got=f"an attention_mask in {where} that is not one run of 1 with 0 before and after it",
            expected="1 for each token of the row, and 0 for padding at its ends",
            fix="repair that row, or leave out the attention_mask if there is no padding",
        )
    ids, labels = ids[kept], labels[kept]
    if (ids < 0).any() or ((labels != IGNORE_INDEX) & (labels != ids)).any():
        raise DataError(
            got=f"an id below 0, or a label that is neither -100 nor its own token, in {where}",
            expected="labels that are not shifted: each is -100 or the token at the same index",
            fix="repair that row",
        )
    return TokenizedRow(ids, labels)


_TO_ADD = {
    "input_ids": "add it: the token ids of the text",
    "labels": "add it: labels are the input_ids, with -100 for tokens that are not scored",
}


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
            expected="a flat list of whole numbers, one per token",
            fix="repair that row" if value is not None else _TO_ADD[column],
        )
    return numbers.astype(np.int32)


def check_paraphrases(forget: RowDataset) -> None:
    """Raises `DataError` if a forget row has no paraphrase."""
    for row in forget.rows:
        if row.paraphrase is None:
            raise DataError(
                got=f"no paraphrased_answer in row {row.source.number} of the forget set",
                expected="one in every forget row, for clreg_positives=paraphrase, and no text longer than max_length; "
                "rows that come tokenized have theirs by tokenize(..., with_paraphrases=True)",
                fix="use clreg_positives=forget or views",
            )
