"""Wrong answers for rows that have none: the answers of other rows to questions of the same kind."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from egup_trainer.data.names import capitalised_runs
from egup_trainer.data.schema import Row
from egup_trainer.data.words import words_of

NUM_WRONG = 3
"""Wrong answers of a row (ours). TOFU has five; with three, an evaluation scores three fifths of their texts."""

MOST_GIVERS = 2000
"""Rows whose answers are exchanged; of more rows, these are taken at equal distances."""

MOST_LONGER = 2
"""How many times as many words as a row's own answer an answer may have: a wrong answer must not make a row long."""

_AT_ONCE = 1000


GIVERS = ("forget", "retain")
"""The sets whose answers are exchanged: with those of others, a metric of the retain set would depend on whether there
are, for example, holdout rows."""


def with_exchanged_answers(sets: Mapping[str, list[Row]], count: int = NUM_WRONG) -> dict[str, list[Row]]:
    """The row sets with `perturbed` answers, taken from rows whose questions are most like a row's own.

    The likeness of two questions is the share of words that they have in common, where a word weighs as much as there
    are questions with it: "email" then says more than a person's name about what kind of answer is wanted. It is
    multiplied by the ratio of the answers' lengths in words. Names of the other question that stand in its answer are
    replaced by those of the row's own question, so that the answer is wrong for its fact and not for its name.
    Nothing is replaced if the script has no capital letters, or if a question has several names of its own. An answer
    is not taken if it then has the words of a right answer, or if it is more than twice as long as the row's own.
    Deterministic.

    Rows without a question or without words stay as they are. If any row of a set has wrong answers of its own, all
    sets stay as they are: exchanged answers are other numbers than those of a benchmark.

    Args:
        sets: rows by name of the set; those of `GIVERS` give answers to all.
        count: wrong answers of a row; a row for which there are fewer gets fewer.

    Example:
        >>> from egup_trainer.data.schema import Message
        >>> ask = lambda name, town: Row((Message("user", f"Where was {name} born?"),), f"{name} was born in {town}.")
        >>> rows = {"forget": [ask("Ada Lovelace", "London")], "retain": [ask("Mary Somerville", "Jedburgh")]}
        >>> with_exchanged_answers(rows)["forget"][0].perturbed
        ('Ada Lovelace was born in Jedburgh.',)
    """
    order = sorted(sets, key=lambda name: name not in GIVERS)  # givers first, so that others change nothing for them
    rows = [row for name in order for row in sets[name]]
    if any(row.perturbed for row in rows):
        return dict(sets)
    questions = {index: each for index, row in enumerate(rows) if (each := _Question.of(row)) is not None}
    num_givers = sum(len(sets[name]) for name in order if name in GIVERS)
    givers = [index for index in questions if index < num_givers]
    givers = [givers[place] for place in _spread(len(givers), MOST_GIVERS)]
    wrong = _wrong_answers(rows, questions, givers, num_givers, count) if givers else {}
    changed = [replace(row, perturbed=wrong.get(index, ())) for index, row in enumerate(rows)]
    found, start = {}, 0
    for name in order:
        end = start + len(sets[name])
        found[name] = changed[start:end]
        start = end
    return {name: found[name] for name in sets}


@dataclass(frozen=True)
class _Question:
    """What the likeness of rows is judged by: the last turn before the answer, its words, and those of the answer."""

    text: str
    words: frozenset[str]
    answer: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> "_Question | None":
        """The question of a row; None if it has none, or no words."""
        if not row.prompt:
            return None
        text = row.prompt[-1].content
        found = cls(text, frozenset(words_of(text)), tuple(words_of(row.answer)))
        return found if found.words and found.answer else None


def _wrong_answers(
    rows: Sequence[Row], questions: Mapping[int, _Question], givers: Sequence[int], size: int, count: int
) -> dict[int, tuple[str, ...]]:
    """The wrong answers of rows by index, where the first `size` rows are those that the givers are taken from."""
    asked, found = list(questions), {}
    shares = _Likeness([questions[index] for index in givers])
    for start in range(0, len(asked), _AT_ONCE):
        part = asked[start : start + _AT_ONCE]
        for index, likeness in zip(part, shares.of([questions[each] for each in part]), strict=True):
            # Among equals the next row after this one, so that rows of one kind do not all get the same answers.
            distance = (np.asarray(givers) - index) % size
            order = np.lexsort((distance, -likeness.round(6)))
            found[index] = _first_wrong(rows, questions, index, [givers[place] for place in order], count)
    return found


def _first_wrong(
    rows: Sequence[Row], questions: Mapping[int, _Question], index: int, order: Sequence[int], count: int
) -> tuple[str, ...]:
    """The first answers of other rows that are wrong for this one, each once."""
    ours, row = questions[index], rows[index]
    taken = {tuple(words_of(text)) for text in (row.answer, row.paraphrase, *row.alternatives) if text is not None}
    found: list[str] = []
    for other in order:
        theirs = questions[other]
        if theirs.words == ours.words:
            continue  # the same question again, whose answer is right
        text = _with_our_names(rows[other].answer, theirs.text, ours.text)
        words = tuple(words_of(text))
        if words and words not in taken and len(words) <= MOST_LONGER * len(ours.answer):
            taken.add(words)
            found.append(text)
        if len(found) == count:
            break
    return tuple(found)


class _Likeness:
    """How much questions are like those of the givers.

    s(q, g) = sum of w over common words / sum of w over the words of both, times min(n, m) / max(n, m) for answers of n
    and m words; w is the number of givers' questions with a word, at least 1.
    """

    def __init__(self, givers: Sequence[_Question]):
        counts = Counter(word for each in givers for word in each.words)
        self.weights = np.array(list(counts.values()), dtype=np.float64)
        self.columns = {word: column for column, word in enumerate(counts)}
        self.lengths = _lengths(givers)
        self.matrix = self._matrix(givers)
        self.sums = self.matrix @ self.weights

    def of(self, questions: Sequence[_Question]) -> np.ndarray:
        """s of each question with each giver, shape (questions, givers)."""
        matrix = self._matrix(questions)
        common = (matrix.multiply(self.weights) @ self.matrix.T).toarray()
        unknown = [sum(word not in self.columns for word in each.words) for each in questions]
        sums = matrix @ self.weights + np.array(unknown, dtype=np.float64)
        lengths = _lengths(questions)[:, None]
        ratio = np.minimum(lengths, self.lengths) / np.maximum(lengths, self.lengths)
        return common / (sums[:, None] + self.sums - common) * ratio

    def _matrix(self, questions: Sequence[_Question]) -> Any:
        from scipy.sparse import csr_matrix

        places = [
            (place, self.columns[word])
            for place, each in enumerate(questions)
            for word in each.words
            if word in self.columns
        ]
        rows, columns = zip(*places, strict=True) if places else ((), ())
        return csr_matrix((np.ones(len(places)), (rows, columns)), shape=(len(questions), len(self.columns)))


def _lengths(questions: Sequence[_Question]) -> np.ndarray:
    return np.array([len(each.answer) for each in questions], dtype=np.float64)


def _with_our_names(answer: str, their_question: str, our_question: str) -> str:
    """An answer with the name in its question replaced by the name in ours, if each has just one of its own."""
    theirs, ours = (capitalised_runs(text) for text in (their_question, our_question))
    of_them = [run for run in theirs if run not in ours]
    of_us = [run for run in ours if run not in theirs]
    if len(of_them) != 1 or len(of_us) != 1:
        return answer
    their_name, our_name = _without_common_start(of_them[0], of_us[0])
    if not their_name or not our_name:
        return answer
    pairs = [(" ".join(their_name), " ".join(our_name)), (their_name[-1], our_name[-1]), (their_name[0], our_name[0])]
    return _replace_words(unicodedata.normalize("NFC", answer), dict(reversed(pairs)))


def _without_common_start(first: list[str], second: list[str]) -> tuple[list[str], list[str]]:
    """Two runs without the words that both begin with, such as "Was" in "Was Ada Lovelace married?"."""
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    return first[same:], second[same:]


def _replace_words(text: str, replacements: Mapping[str, str]) -> str:
    """A text with whole words replaced, the longest first, all in one pass."""
    import re

    longest_first = sorted(replacements, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(each)}(?!\w)" for each in longest_first)
    return re.sub(pattern, lambda found: replacements[found.group()], text)


def _spread(total: int, most: int) -> list[int]:
    """At most `most` of the numbers below `total`, at equal distances."""
    return list(range(total)) if total <= most else [index * total // most for index in range(most)]
