"""Markdown tables, and what a site makes of them."""

import re
from collections.abc import Iterable, Sequence

_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<td\b(.*?)>(.*?)</td>", re.DOTALL)
_NUMBER = re.compile(r"[-+.]?\d")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Example:
        >>> print(table(["a", "b"], [["1", "x|y"]]))
        | a | b |
        | --- | --- |
        | 1 | x\\|y |
    """
    lines = [headings, ["---"] * len(headings), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def for_phones(html: str) -> str:
    """A page whose tables fit a phone by style.css.

    A table of numbers scrolls inside its box beside its first column. The cells of any other stand below each other,
    each under the heading of its column, which the attribute `data-label` has.

    Example:
        >>> for_phones("<table><th>a</th><th>b</th><tr><td>x</td><td>y</td></tr></table>")
        '<div class="stacked"><table><th>a</th><th>b</th><tr><td>x</td><td data-label="b">y</td></tr></table></div>'
    """
    return _TABLE.sub(lambda found: _for_phones(found[0]), html)


def code(text: str) -> str:
    """`text` as code; empty if `text` is empty."""
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _for_phones(found: str) -> str:
    headings = [re.sub(r"<.*?>", "", each) for each in re.findall(r"<th\b.*?>(.*?)</th>", found, re.DOTALL)]
    values = [text for row in _ROW.findall(found) for _, text in _CELL.findall(row)[1:] if text]
    kind = "numbers" if sum(map(bool, map(_NUMBER.match, values))) > len(values) / 2 else "stacked"

    def labelled(row: str) -> str:
        labels = iter(["", *(f' data-label="{each}"' for each in headings[1:])])
        return _CELL.sub(lambda cell: f"<td{cell[1]}{next(labels)}>{cell[2]}</td>", row)

    return f'<div class="{kind}">{_ROW.sub(lambda row: labelled(row[0]), found)}</div>'
