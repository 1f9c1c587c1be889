"""Tables in markdown, and their place in a page."""

import re
from collections.abc import Iterable


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table of cells.

    Example:
        >>> print(table(["a", "b"], [["1", "2"]]))
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def put(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of that name replaced.

    Raises:
        ValueError: it has no such markers.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    found, count = re.subn(f"(?s){begin}.*?{end}", lambda _: f"{begin}\n{content}\n{end}", text)
    if not count:
        raise ValueError(f"The text has no place for {name!r}: {begin} and {end}.")
    return found
