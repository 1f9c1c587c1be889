"""What a written row must be to serve as a proxy, as far as its text shows it. Each filter learns from the forget rows.

Thresholds and their sources stand in docs/data.md.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import pairwise

import numpy as np

from egup_trainer.data.schema import Row
from egup_trainer.data.words import words_of
from egup_trainer.proxies.prompt import Example, examples_of
from egup_trainer.proxies.similarity import NearestText, Stretches

_LEAST_LIKE, _MOST_LIKE = 0.7, 0.9
_MOST_COMPARED = 1024
_WORD = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s$")


class Rejection(str, Enum):
    """Why an attempt makes no proxy, in the order in which it is asked."""

    UNREADABLE = "not in the format"
    LENGTH = "too short or too long"
    ECHO = "answer and question say the same"
    LANGUAGE = "another script or language"
    NAME = "a name of the forget rows"
    WORDS = "the words of a forget or retain row"
    FEATURES = "the features of a forget or retain row"
    REPEAT = "near a proxy before it"


def question_of(row: Row) -> str:
    """The row's question, "" for a plain text."""
    return row.prompt[-1].content if row.prompt else ""


def text_of(row: Row) -> str:
    """Question and answer, or the plain text."""
    return f"{question_of(row)} {row.answer}".strip()


class TextFilters:
    """All filters that read the text alone.

    Args:
        forget: the forget rows.
        retain: the retain rows; none without.
    """

    def __init__(self, forget: Sequence[Row], retain: Sequence[Row] = ()):
        examples = examples_of(forget)
        self.words = Words(forget, retain)
        kinds = {example.kind.has_question for example in examples}
        lengths = {
            each: Lengths.of([example for example in examples if example.kind.has_question == each]) for each in kinds
        }
        self._checks: list[tuple[Rejection, Callable[[Row], bool]]] = [
            (Rejection.LENGTH, lambda row: lengths[bool(row.prompt)].rejects(row)),
            (Rejection.ECHO, is_echo),
            (Rejection.LANGUAGE, Language(examples).rejects),
            (Rejection.NAME, Names(map(text_of, forget)).rejects),
            (Rejection.WORDS, self.words.rejects),
        ]

    def rejection(self, row: Row | None) -> Rejection | None:
        """The first reason against the row (None: it could not be read), or None."""
        if row is None:
            return Rejection.UNREADABLE
        return next((reason for reason, rejects in self._checks if rejects(row)), None)


@dataclass(frozen=True)
class Lengths:
    """From half of what short forget rows have to twice what long ones have (5th and 95th percentile), in characters.

    Args:
        question, answer: least and most characters.
    """

    question: tuple[float, float]
    answer: tuple[float, float]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Lengths":
        """The lengths for rows of the examples' kind, of which there is one at least."""
        parts = ([len(example.question) for example in examples], [len(example.answer) for example in examples])
        low, high = np.percentile(parts, [5, 95], axis=1)
        return cls(*((float(least) / 2, float(most) * 2) for least, most in zip(low, high)))

    def rejects(self, row: Row) -> bool:
        """Whether question or answer is shorter or longer."""
        parts = ((len(question_of(row)), self.question), (len(row.answer), self.answer))
        return not all(least <= length <= most for length, (least, most) in parts)


def is_echo(row: Row) -> bool:
    """Whether the answer repeats the whole question, or says no word that the question did not say in its order.

    Example:
        >>> from egup_trainer.data.schema import Message
        >>> is_echo(Row((Message("user", "Who is Ada?"),), "Who is Ada? Ada.")), is_echo(Row((), "Ada."))
        (True, False)
    """
    question, answer = (f" {' '.join(words_of(part))} " for part in (question_of(row), row.answer))
    return bool(question.strip()) and (question in answer or answer in question)


class Language:
    """The scripts of the forget rows' letters, and how many of a row's words are the set's common ones.

    A row passes if nine in ten of its letters are of scripts that make up a hundredth of the examples' letters or more,
    and if the share of its words that are common is at least a quarter of what it is in the median example. Common are
    the words, numbers apart, that stand in one in twenty examples, and in two at least.
    """

    def __init__(self, examples: Sequence[Example]):
        texts = [f"{example.question} {example.answer}" for example in examples]
        letters = Counter(script for text in texts for script in _scripts(text))
        self.scripts = {script for script, count in letters.items() if count >= letters.total() / 100}
        holders = Counter(word for text in texts for word in set(words_of(text)) if not word.isnumeric())
        self.common = {word for word, count in holders.items() if count >= max(2, len(texts) / 20)}
        self.least_common = float(np.median([self._common_share(text) for text in texts])) / 4

    def rejects(self, row: Row) -> bool:
        """Whether the row is of another script or language."""
        text = text_of(row)
        scripts = [script in self.scripts for script in _scripts(text)]
        return sum(scripts) < 0.9 * len(scripts) or self._common_share(text) < self.least_common

    def _common_share(self, text: str) -> float:
        words = words_of(text)
        return sum(word in self.common for word in words) / max(len(words), 1)


def _scripts(text: str) -> list[str]:
    return [_script(character) for character in text if character.isalpha()]


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The first word of the letter's name, which is its script: LATIN, CYRILLIC, CJK, HIRAGANA, ..."""
    return unicodedata.name(letter, "NONE").split()[0]


class Names:
    """The names of two words or more that texts hold: capitalised words in a row that none of the texts writes small.

    Two such words that follow each other are a name, so that a part of a longer name counts, too. Scripts without
    capital letters have no names that could be seen so.
    """

    def __init__(self, texts: Iterable[str]):
        texts = list(texts)
        small = {word for text in texts for word in _WORD.findall(text) if word[0].islower()}
        self.pairs = {pair for text in texts for pair in _pairs(text) if not small & {word.lower() for word in pair}}

    def rejects(self, row: Row) -> bool:
        """Whether the row holds one of the names."""
        return any(pair in self.pairs for pair in _pairs(text_of(row)))


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    """Capitalised words that only spaces set apart, after an initial also a full stop; without a possessive s."""
    found = list(_WORD.finditer(text))
    for first, second in pairwise(found):
        between = text[first.end() : second.start()]
        is_joined = between.isspace() or (len(first[0]) == 1 and between.strip() == ".")
        is_name = first[0][0].isupper() and second[0][0].isupper()
        if is_joined and is_name and not _POSSESSIVE.search(first[0]):
            yield first[0], _POSSESSIVE.sub("", second[0])


class Words:
    """Near-duplicates of given rows by their words.

    A row is one if a question is the same, if 13 words in a row are the same, or if ROUGE-L to a given row is above
    `most_like`: 0.7, or what the median forget row has to the nearest other one, if that is more; at most 0.9.
    """

    def __init__(self, forget: Sequence[Row], retain: Sequence[Row]):
        forget_texts = list(map(text_of, forget))
        texts = [*forget_texts, *map(text_of, retain)]
        self.questions = {_normal_question(row) for row in (*forget, *retain)} - {""}
        self.stretches, self.nearest = Stretches(texts), NearestText(texts)
        among = NearestText(forget_texts)
        compared = np.unique(np.linspace(0, len(forget) - 1, min(len(forget), _MOST_COMPARED)).astype(int))
        usual = float(np.median([among.nearness(forget_texts[place], without=place) for place in compared]))
        self.most_like = min(max(usual, _LEAST_LIKE), _MOST_LIKE)

    def rejects(self, row: Row) -> bool:
        """Whether the row is a near-duplicate."""
        text = text_of(row)
        return (
            _normal_question(row) in self.questions
            or self.stretches.are_in(text)
            or self.nearest.nearness(text) > self.most_like
        )


class Kept:
    """The proxies so far; the next one must be no near-duplicate of them, in the sense of `Words`.

    Args:
        most_like: highest ROUGE-L to one of them.
    """

    def __init__(self, most_like: float):
        self.most_like = most_like
        self.questions: set[str] = set()
        self.nearest = NearestText()

    def rejects(self, row: Row) -> bool:
        """Whether the row is a near-duplicate of a proxy."""
        return _normal_question(row) in self.questions or self.nearest.nearness(text_of(row)) > self.most_like

    def add(self, row: Row) -> None:
        """Takes up a proxy."""
        self.questions |= {_normal_question(row)} - {""}
        self.nearest.add(text_of(row))


def _normal_question(row: Row) -> str:
    return " ".join(words_of(question_of(row)))
