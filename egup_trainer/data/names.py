"""Names in texts, as far as capital letters show them."""

from collections.abc import Iterable

_AROUND = ".,;:!?()\"'"


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
    for word in [*text.split(), ""]:
        bare = word.strip(_AROUND)
        name = bare.removesuffix("'s").removesuffix("\N{RIGHT SINGLE QUOTATION MARK}s")
        if name[:1].isupper():
            words.append(name)
        if not name[:1].isupper() or name != word:
            found += [words] if words else []
            words = []
    return found
