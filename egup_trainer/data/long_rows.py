"""Rows that are longer than the model is to read at once: refused, cut, or read in several windows."""

from dataclasses import replace
from enum import Enum

import numpy as np

from egup_trainer.data.schema import IGNORE_INDEX, TokenizedRow
from egup_trainer.errors import DataError


class OnLongRow(str, Enum):
    """What becomes of a row with a prompt that is longer than `max_length`; a longer plain text is always split."""

    ERROR = "error"
    CUT = "cut"
    WINDOW = "window"


def fit(
    row: TokenizedRow, max_length: int | None, on_long_row: OnLongRow, where: str, is_plain: bool
) -> list[TokenizedRow]:
    """The samples of at most `max_length` tokens that a row makes; together they score each answer token exactly once.

    Only with `OnLongRow.CUT` answer tokens are left out: those that do not fit. A paraphrase or an alternate answer is
    never read in windows, since there is one for each sample: what does not fit of it is left out, too.

    Args:
        row: the whole row.
        max_length: most tokens in a sample; None for no limit.
        on_long_row: what becomes of a longer row.
        where: which row it is, for messages.
        is_plain: whether it is a plain text, which is split into pieces that overlap by one token.

    Raises:
        DataError: the row is longer and `on_long_row` says so, or no answer token is left.
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
        input_ids=row.input_ids[:max_length],
        labels=row.labels[:max_length],
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
        # Another wording of the whole text is none of a piece.
        is_closed = row.is_closed and start + max_length >= len(row)
        pieces.append(replace(row, input_ids=ids, labels=labels, is_closed=is_closed, paraphrase=None))
    return pieces


def _windows(row: TokenizedRow, max_length: int) -> list[TokenizedRow]:
    """The row's first `max_length` tokens, then windows of the prompt, of tokens scored before, and of tokens to score.

    A prompt that takes more than half of a window stands in the first one alone; of a prompt that is longer than a
    window, its end does. Half of what the prompt leaves is context, so a token is scored with as much before it.
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
    for places in windows:
        labels = np.where(places >= done, row.labels[places], IGNORE_INDEX).astype(np.int32)
        done = int(places[-1]) + 1
        if _has_scored_token(labels):
            is_closed = row.is_closed and done == len(row)
            samples.append(replace(row, input_ids=row.input_ids[places], labels=labels, is_closed=is_closed))
    return samples


def long_rows_line(name: str, rows: int, cut: int, in_windows: int, max_length: int) -> str | None:
    """What to tell of the rows of a set that are longer than `max_length`; None if there are none."""
    if cut:
        return (
            f"{name}: {cut} of {rows} rows are longer than max_length={max_length} tokens and were cut; what was cut "
            "off is neither trained nor measured. Raise --max_length or set --on_long_row window"
        )
    if in_windows:
        return f"{name}: {in_windows} of {rows} rows are longer than max_length={max_length} tokens and read in windows"
    return None
