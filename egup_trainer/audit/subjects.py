"""Which retain rows are about what the forget rows are about, and which are not, by their words alone."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from egup_trainer.data.schema import Row
from egup_trainer.data.words import words_of

POOL_SHARE = 4
"""The nearest and the furthest quarter of the retain rows are related and unrelated."""


def related_and_unrelated(forget: Sequence[Row], retain: Sequence[Row], count: int) -> tuple[list[int], list[int]]:
    """Indices of the retain rows nearest to the forget rows, nearest first, and of the furthest, furthest first.

    A row is as near as the nearest forget row: max_j cos(t_i, t_j), where t_i weighs each word of the row's texts by
    log(N / n_w), N the number of all rows and n_w of those that have the word (ours). Models are not asked, so that
    all models that are compared are trained on the same rows.

    Args:
        count: rows that are wanted of each kind.

    Returns:
        A quarter of the retain rows for each kind, or `count` if that is more, but at most half of them.

    Example:
        >>> rows = [Row((), text) for text in ("the red fox", "the blue whale", "the old fox")]
        >>> related_and_unrelated(rows[:1], rows[1:], count=1)
        ([1], [0])
    """
    size = min(max(count, len(retain) // POOL_SHARE), len(retain) // 2)
    order = sorted(range(len(retain)), key=_nearness(forget, retain).__getitem__, reverse=True)
    return order[:size], order[::-1][:size]


def _nearness(forget: Sequence[Row], retain: Sequence[Row]) -> list[float]:
    from scipy.sparse import csr_matrix

    texts = [set(words_of(_text(row))) for row in (*forget, *retain)]
    rows_with = Counter(word for words in texts for word in words)
    column = {word: number for number, word in enumerate(rows_with)}
    vectors = [
        _unit({column[word]: math.log(len(texts) / rows_with[word]) for word in sorted(words)}) for words in texts
    ]
    values = [value for vector in vectors for value in vector.values()]
    columns = [number for vector in vectors for number in vector]
    starts = [0, *accumulate(map(len, vectors))]
    table = csr_matrix((values, columns, starts), shape=(len(texts), len(column)))
    known, others = table[: len(forget)], table[len(forget) :]
    return (others @ known.T).max(axis=1).toarray().ravel().tolist()


def _text(row: Row) -> str:
    return " ".join([*(turn.content for turn in row.prompt), row.answer])


def _unit(vector: dict[int, float]) -> dict[int, float]:
    length = math.hypot(*vector.values())
    return {word: weight / length for word, weight in vector.items()} if length else {}
