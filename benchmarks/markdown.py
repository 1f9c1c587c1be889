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
    """The text with what stands between the markers of that name replaced."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    return re.sub(f"(?s){begin}.*?{end}", lambda _: f"{begin}\n{content}\n{end}", text)
