"""Finds rows that are in two sets: those of which prompt and answer are the same, but for white space."""

import logging
from typing import Any, TypeVar

from egup_trainer.data.schema import NO_SOURCE, Row, RowSource
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import DataError

logger = logging.getLogger(__name__)
Rows = TypeVar("Rows", list[Row], RowDataset)


def keep_apart(first: Rows, first_name: str, second: Rows, second_name: str, *, drop: bool) -> Rows:
    """Returns the second set, in which no row (prompt and answer) is also in the first one.

    Args:
        first, second: the sets.
        first_name, second_name: what they are, for messages, such as "forget set".
        drop: whether rows of both sets are left out, with a warning; otherwise they raise an error.

    Raises:
        DataError: a row is in both sets and is not to be dropped, or no row is left.

    Example:
        >>> forget, retain = [Row((), "a")], [Row((), "b"), Row((), "a")]
        >>> keep_apart(forget, "forget set", retain, "retain set", drop=True)
        [Row(prompt=(), answer='b', paraphrase=None, perturbed=(), alternatives=(), alternates=(), \
paraphrased_questions=(), translated_questions=())]
    """
    known = {key: source.number for source, _ in _samples(first) for key in _keys(source)}
    rows = [
        (next((known[key] for key in _keys(source) if key in known), None), source, row)
        for source, row in _samples(second)
    ]
    shared = {source.number: number for number, source, _ in rows if number is not None}
    if shared and not drop:
        number, first_number = next(iter(shared.items()))
        raise DataError(
            got=f"a row in both sets: row {first_number} of the {first_name} is row {number} of the {second_name}",
            expected=f"no row (prompt and answer) in both the {first_name} and the {second_name}",
            fix=f"remove it from one of them, or leave out such rows of the {second_name} with --drop_overlap",
        )
    kept = [row for number, _, row in rows if number is None]
    if drop and not kept:
        raise DataError(
            got=f"no row in the {second_name} that is not in the {first_name}, too",
            expected="other rows than those to forget",
            fix=f"give another {second_name}",
        )
    if not shared:
        return second
    counts = len(shared), len({source.number for _, source, _ in rows})
    logger.warning("%d of %d rows of the %s are left out: they are in the %s, too.", *counts, second_name, first_name)
    return RowDataset(kept) if isinstance(second, RowDataset) else kept


def keep_apart_from_forget(*, drop: bool, **sets: list[Row] | None) -> dict[str, Any]:
    """The given sets by name, after `keep_apart` of each from the set named "forget"."""
    forget = sets.pop("forget") or []
    others = {
        name: keep_apart(forget, "forget set", rows, f"{name} set", drop=drop)
        for name, rows in sets.items()
        if rows is not None
    }
    return {"forget": forget, **others}


def _samples(rows: list[Row] | RowDataset) -> list[tuple[RowSource, Any]]:
    """Each sample with the row that it was made from."""
    if isinstance(rows, RowDataset):
        sources = [RowSource.of(i, row) if row.source == NO_SOURCE else row.source for i, row in enumerate(rows.rows)]
        return list(zip(sources, rows.rows, strict=True))
    return [(RowSource(number, b"", row.text_key()), row) for number, row in enumerate(rows)]


def _keys(source: RowSource) -> list[bytes]:
    """By its text and by its tokens: rows that the model reads alike are the same, too."""
    return [key for key in (source.text_key, source.key) if key]
