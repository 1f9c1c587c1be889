"""Words of a text in any script, for all that counts or compares words."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any


def words_of(text: str) -> list[str]:
    """The words of a text, case folded: runs of letters and digits with their combining marks, in any script.

    In scripts without spaces between words (Chinese characters, kana, Thai, Lao, Khmer, Burmese), each character is a
    word. For ASCII text these are exactly the words that rouge-score counts. Text that consists only of punctuation or
    emoji has none.

    Example:
        >>> words_of("Who is Ada_2? 東京 Zoë")
        ['who', 'is', 'ada', '2', '東', '京', 'zoë']
    """
    return _pattern().findall(unicodedata.normalize("NFC", text.casefold()))


def characters_per_word(words: Sequence[str]) -> int:
    """How many of the `words_of` a text make a word of it: 1 in scripts with spaces between words; ours.

    Where most are single characters of a script without spaces: 4 in Thai, Lao, Khmer and Burmese, 2 elsewhere.

    Example:
        >>> [characters_per_word(words_of(text)) for text in ("Ada was born in 1815.", "東京に住む", "เกิดที่กรุงเทพ")]
        [1, 2, 4]
    """
    import regex

    text = " ".join(word for word in words if len(word) == 1 or not word.isascii())
    eastern = len(regex.findall(r"[\p{Ideographic}\p{scx=Hira}\p{scx=Kana}]", text))
    southern = len(regex.findall(r"\p{lb=SA}\p{M}*", text))
    if eastern + southern <= len(words) / 2:
        return 1
    return 4 if southern > eastern else 2


@cache
def _pattern() -> Any:
    import regex  # unlike re, it knows scripts, and how Unicode breaks lines (SA: only a dictionary knows where)

    letter = r"[\p{L}\p{N}]"
    alone = rf"[[\p{{Ideographic}}\p{{scx=Hira}}\p{{scx=Kana}}\p{{lb=SA}}]&&{letter}]"
    joined = r"[\p{L}\p{N}\p{M}\u200c\u200d]"  # the last two join letters, of Persian and Indian scripts among others
    return regex.compile(rf"(?V1){alone}\p{{M}}*|[{letter}--{alone}][{joined}--{alone}]*")
