"""What a written row must be like to serve as a proxy, judged by its text.

Each filter learns from the forget rows. For thresholds and their sources see docs/data.md.
"""

import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from itertools import chain, pairwise
from typing import Any

import numpy as np

from egup_trainer.data.schema import Row
from egup_trainer.data.words import characters_per_word, words_of
from egup_trainer.proxies.prompt import Example, examples_of

_MIN_ROUGE, _MAX_ROUGE = 0.7, 0.9
_MAX_COMPARED = 1024
_RUN, _WINDOW = 13, 150  # words
_WORD = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s$")


class Rejection(str, Enum):
    """Why an attempt is not a proxy, in the order of the checks."""

    UNREADABLE = "not in the format"
    LENGTH = "too short or too long"
    ECHO = "answer and question say the same"
    LANGUAGE = "another script or language"
    NAME = "a name of the forget rows"
    WORDS = "the words of a forget or retain row"
    FEATURES = "the features of a forget or retain row"
    REPEAT = "similar to an earlier proxy"


def question_of(row: Row) -> str:
    """The row's question, "" for a plain text."""
    return row.prompt[-1].content if row.prompt else ""


def text_of(row: Row) -> str:
    """Question and answer, or the plain text."""
    return f"{question_of(row)} {row.answer}".strip()


class TextFilters:
    """All filters that only read the text."""

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
        """The first reason to reject the row (None: it could not be read), or None."""
        if row is None:
            return Rejection.UNREADABLE
        return next((reason for reason, rejects in self._checks if rejects(row)), None)


@dataclass(frozen=True)
class Lengths:
    """Bounds from half the length of short forget rows to twice that of long ones (5th and 95th percentile).

    Args:
        question, answer: minimum and maximum number of characters.
    """

    question: tuple[float, float]
    answer: tuple[float, float]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Lengths":
        """The bounds for rows of the kind of the examples, of which there is at least one."""
        parts = ([len(example.question) for example in examples], [len(example.answer) for example in examples])
        low, high = np.percentile(parts, [5, 95], axis=1)
        return cls(*((float(shortest) / 2, float(longest) * 2) for shortest, longest in zip(low, high)))

    def rejects(self, row: Row) -> bool:
        """Whether question or answer is out of bounds."""
        parts = ((len(question_of(row)), self.question), (len(row.answer), self.answer))
        return not all(shortest <= length <= longest for length, (shortest, longest) in parts)


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
    """The scripts of the forget rows' letters, and how many of a row's words are common words of the set.

    A row passes if nine in ten of its letters are of scripts that make up at least one in a hundred of the examples'
    letters, and if the share of common words among its words is at least a quarter of that of the median example.
    Common are the words, apart from numbers, that occur in one in twenty examples, and in at least two.
    """

    def __init__(self, examples: Sequence[Example]):
        texts = [f"{example.question} {example.answer}" for example in examples]
        letters = Counter(script for text in texts for script in _scripts(text))
        self.scripts = {script for script, count in letters.items() if count >= letters.total() / 100}
        holders = Counter(word for text in texts for word in set(words_of(text)) if not word.isnumeric())
        self.common = {word for word, count in holders.items() if count >= max(2, len(texts) / 20)}
        self.min_common = float(np.median([self._common_share(text) for text in texts])) / 4

    def rejects(self, row: Row) -> bool:
        """Whether the row is of another script or language."""
        text = text_of(row)
        is_known = [script in self.scripts for script in _scripts(text)]
        return sum(is_known) < 0.9 * len(is_known) or self._common_share(text) < self.min_common

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
    """The names of two or more words in texts: consecutive capitalised words that no text writes in lower case.

    Any two consecutive words of a name count as a name, too. Scripts without capital letters have no names that could
    be recognised like this.
    """

    def __init__(self, texts: Iterable[str]):
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        small = {word for text in texts for word in _WORD.findall(text) if word[0].islower()}
        self.pairs = {pair for text in texts for pair in _pairs(text) if not small & {word.lower() for word in pair}}

    def rejects(self, row: Row) -> bool:
        """Whether the row contains one of the names."""
        return any(pair in self.pairs for pair in _pairs(text_of(row)))


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    """Capitalised words separated only by spaces, or by a full stop after an initial; without a possessive s."""
    text = unicodedata.normalize("NFC", text)
    found = list(_WORD.finditer(text))
    for first, second in pairwise(found):
        between = text[first.end() : second.start()]
        is_joined = between.isspace() or (len(first[0]) == 1 and between.strip() == ".")
        is_name = first[0][0].isupper() and second[0][0].isupper()
        if is_joined and is_name and not _POSSESSIVE.search(first[0]):
            yield first[0], _POSSESSIVE.sub("", second[0])


class Words:
    """Near-duplicates of given rows by their words.

    A row is one if its question is the same, if 13 consecutive words are the same, or if its ROUGE-L to a given row is
    above `max_rouge`: 0.7, or what the median forget row has to the nearest other one if that is more; at most 0.9.
    """

    def __init__(self, forget: Sequence[Row], retain: Sequence[Row]):
        forget_texts = list(map(text_of, forget))
        texts = [*forget_texts, *map(text_of, retain)]
        self.questions = {_normal_question(row) for row in (*forget, *retain)} - {""}
        self.runs, self.nearest = set(chain.from_iterable(map(_runs, texts))), NearestText(texts)
        among = NearestText(forget_texts)
        compared = np.unique(np.linspace(0, len(forget) - 1, min(len(forget), _MAX_COMPARED)).astype(int))
        usual = float(np.median([among.rouge(forget_texts[index], without=index) for index in compared]))
        self.max_rouge = min(max(usual, _MIN_ROUGE), _MAX_ROUGE)

    def rejects(self, row: Row) -> bool:
        """Whether the row is a near-duplicate."""
        text = text_of(row)
        return (
            _normal_question(row) in self.questions
            or not self.runs.isdisjoint(_runs(text))
            or self.nearest.rouge(text) > self.max_rouge
        )


class Kept:
    """The proxies so far. The next one must not have the question of one of them, nor nearly its words."""

    def __init__(self, max_rouge: float):
        self.max_rouge = max_rouge
        self.questions: set[str] = set()
        self.nearest = NearestText()

    def rejects(self, row: Row) -> bool:
        """Whether the row is a near-duplicate of a proxy."""
        return _normal_question(row) in self.questions or self.nearest.rouge(text_of(row)) > self.max_rouge

    def add(self, row: Row) -> None:
        """Adds a proxy."""
        self.questions |= {_normal_question(row)} - {""}
        self.nearest.add(text_of(row))


def _normal_question(row: Row) -> str:
    return " ".join(words_of(question_of(row)))


def _runs(text: str) -> Iterator[int]:
    """Hashes of all runs of 13 consecutive words; of as many characters as make these where words are not separated."""
    words = words_of(text)
    for start in range(len(words) - _RUN + 1):
        end = start + _RUN * characters_per_word(words[start : start + _RUN])
        if end <= len(words):
            yield hash(tuple(words[start:end]))


class NearestText:
    """Finds the highest ROUGE-L between a text and any of the given texts. Long texts are cut into pieces of 150 words.

    ROUGE-L (F) is 2 LCS / (m + n) for m and n words. The longest common subsequence has at most as many words as the
    texts share, which an index counts at once; ROUGE-L is only computed where that bound is high enough.
    """

    def __init__(self, texts: Iterable[str] = ()):
        self._pieces: list[list[str]] = []
        self._lengths, self._owners = array("q"), array("q")  # number of words and index of the text, for each piece
        self._holders: dict[tuple[str, int], array] = defaultdict(lambda: array("q"))  # the pieces that hold a word
        self._num_texts = 0
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Adds another text."""
        for words in _windows(text):
            for word in _counted(words):
                self._holders[word].append(len(self._pieces))
            self._pieces.append(words)
            self._lengths.append(len(words))
            self._owners.append(self._num_texts)
        self._num_texts += 1

    def rouge(self, text: str, without: int | None = None) -> float:
        """Highest ROUGE-L (F) to any text, 0 to 1; 0 if there is none.

        Args:
            without: index of a text to leave out, such as the text itself.
        """
        return max((self._rouge_of(words, without) for words in _windows(text)), default=0.0)

    def _rouge_of(self, words: list[str], without: int | None) -> float:
        shared = np.zeros(len(self._pieces))
        for word in _counted(words):
            if word in self._holders:
                shared[np.frombuffer(self._holders[word], dtype=np.int64)] += 1
        bounds = 2 * shared / (np.array(self._lengths) + len(words))
        if without is not None:
            bounds[np.array(self._owners) == without] = 0
        best = 0.0
        for index in np.argsort(-bounds, kind="stable"):
            if bounds[index] <= best:
                break
            best = max(best, self._scorer.score(" ".join(self._pieces[index]), " ".join(words))["rougeL"].fmeasure)
        return best

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(["rougeL"], tokenizer=_Words())


class _Words:
    """The tokenizer of `RougeScorer` for texts that are words already."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def _windows(text: str) -> Iterator[list[str]]:
    words = words_of(text)
    return (words[start : start + _WINDOW] for start in range(0, len(words), _WINDOW))


def _counted(words: list[str]) -> Iterator[tuple[str, int]]:
    """Each word with the number of its earlier occurrences: two texts share as many of these as words with repeats."""
    return ((word, number) for word, count in Counter(words).items() for number in range(count))
