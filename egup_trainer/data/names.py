"""Names in texts, as far as capital letters show them."""

import unicodedata
from collections.abc import Iterable


def names_in(texts: Iterable[str]) -> list[str]:
    """What looks like names: two or more capitalised words in a row, in scripts that have capitals.

    Example:
        >>> names_in(["The teacher of Ada Lovelace was Mary Somerville."])
        ['Ada Lovelace', 'Mary Somerville']
    """
    return [" ".join(words) for text in texts for words in capitalised_runs(text) if len(words) > 1]


def capitalised_runs(text: str) -> list[list[str]]:
    """Runs of capitalised words without a punctuation mark in between; a possessive ending is left out.

    Example:
        >>> capitalised_runs("What is Ada Lovelace's birthplace, London?")
        [['What'], ['Ada', 'Lovelace'], ['London']]
    """
    found: list[list[str]] = []
    words: list[str] = []
    for word in unicodedata.normalize("NFC", text).split():
        before, bare, after = _parted(word)
        name = bare.removesuffix("'s").removesuffix("\N{RIGHT SINGLE QUOTATION MARK}s")
        if words and (before or not name[:1].isupper()):
            found.append(words)
            words = []
        if name[:1].isupper():
            words.append(name)
        if words and (after or name != bare):
            found.append(words)
            words = []
    return [*found, words] if words else found


def _parted(word: str) -> tuple[str, str, str]:
    """The punctuation marks before a word, the word, and those after it.

    Example:
        >>> _parted("(Ada-Mae),")
        ('(', 'Ada-Mae', '),')
    """
    marks = [unicodedata.category(each).startswith("P") for each in word]
    start = next((place for place, is_mark in enumerate(marks) if not is_mark), len(word))
    end = next((len(word) - place for place, is_mark in enumerate(reversed(marks)) if not is_mark), start)
    return word[:start], word[start:end], word[end:]
