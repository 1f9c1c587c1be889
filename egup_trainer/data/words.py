"""Words of a text in any script, for all that counts or compares words."""

import unicodedata
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


@cache
def _pattern() -> Any:
    import regex  # unlike re, it knows scripts, and how Unicode breaks lines (SA: only a dictionary knows where)

    letter = r"[\p{L}\p{N}]"
    alone = rf"[[\p{{Ideographic}}\p{{scx=Hira}}\p{{scx=Kana}}\p{{lb=SA}}]&&{letter}]"
    joined = r"[\p{L}\p{N}\p{M}\u200c\u200d]"  # the last two join letters, of Persian and Indian scripts among others
    return regex.compile(rf"(?V1){alone}\p{{M}}*|[{letter}--{alone}][{joined}--{alone}]*")
