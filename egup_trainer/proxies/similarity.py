"""How near texts are to others: ROUGE-L to the nearest one, and long stretches of words in common."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from egup_trainer.data.words import words_of

_STRETCH = 13
_WINDOW = 150


class Stretches:
    """The runs of 13 words that texts hold.

    Args:
        texts: the texts.
    """

    def __init__(self, texts: Iterable[str]):
        self.known = {stretch for text in texts for stretch in _stretches(text)}

    def are_in(self, text: str) -> bool:
        """Whether the text repeats one of them."""
        return any(stretch in self.known for stretch in _stretches(text))


def _stretches(text: str) -> Iterator[int]:
    words = words_of(text)
    return (hash(tuple(words[start : start + _STRETCH])) for start in range(len(words) - _STRETCH + 1))


class NearestText:
    """Finds the text with the highest ROUGE-L to another one. Texts longer than 150 words are cut into such pieces.

    ROUGE-L (F) is 2 LCS / (m + n) for m and n words. The longest common subsequence has at most as many words as the
    texts have in common, which an index counts at once; only where that bound is high enough is ROUGE-L computed.

    Args:
        texts: the texts to look among.
    """

    def __init__(self, texts: Iterable[str] = ()):
        self.words: list[list[str]] = []
        self.sources = array("q")
        self.lengths = array("q")
        self.holders: dict[tuple[str, int], array] = defaultdict(lambda: array("q"))
        self.num_texts = 0
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Takes up another text."""
        for words in _windows(text):
            for word in _counted(words):
                self.holders[word].append(len(self.words))
            self.words.append(words)
            self.lengths.append(len(words))
            self.sources.append(self.num_texts)
        self.num_texts += 1

    def nearness(self, text: str, without: int | None = None) -> float:
        """Highest ROUGE-L (F) to any text, 0 if there is none; 0 to 1.

        Args:
            text: what to compare.
            without: place of a text to leave out, such as the text itself.
        """
        return max((self._nearness(words, without) for words in _windows(text)), default=0.0)

    def _nearness(self, words: list[str], without: int | None) -> float:
        shared = np.zeros(len(self.words))
        for word in _counted(words):
            if word in self.holders:
                shared[np.frombuffer(self.holders[word], dtype=np.int64)] += 1
        bounds = 2 * shared / (np.array(self.lengths) + len(words))
        if without is not None:
            bounds[np.array(self.sources) == without] = 0
        best = 0.0
        for place in np.argsort(-bounds, kind="stable"):
            if bounds[place] <= best:
                break
            best = max(best, self._rouge.score(" ".join(self.words[place]), " ".join(words))["rougeL"].fmeasure)
        return best

    @cached_property
    def _rouge(self) -> Any:
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
    """Each word with how often it stood before: as many as the words that two texts have in common, repeats and all."""
    return ((word, number) for word, count in Counter(words).items() for number in range(count))
