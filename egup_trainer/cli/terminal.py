"""The terminal as commands print to it: names and reasons that others wrote are text there, never instructions."""

import logging
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any


def quiet_libraries() -> None:
    """Leaves the terminal to progress bars, results and our own warnings. Call it before other imports."""
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore")
    # The handler is muted, not the logger: a Trainer shows no progress bars if its logger is at level ERROR.
    for handler in transformers_logging.get_logger("transformers").handlers:
        if type(handler) is logging.StreamHandler:  # the library's own handler; any other belongs to the user
            handler.setLevel(logging.ERROR)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def printable(text: str) -> str:
    r"""The text with everything that a terminal would obey, such as escape sequences, written out.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    kept = (each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text)
    return "".join(kept)


def terminal() -> Any:
    """A console of `rich` on stdout that takes no text for markup and prints no control characters."""
    from rich.console import Console
    from rich.segment import Segment

    class Terminal(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable(text), **options)

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                yield part if part.control else Segment(printable(part.text), part.style)

    return Terminal(file=sys.stdout, markup=False, emoji=False, highlight=False)


def make_table(title: str, headings: Sequence[str], left: Collection[str] = ()) -> Any:
    """An empty table of `rich`; `left` names the columns of text, by default the first: others are aligned right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        is_text = heading in (left or headings[:1])
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    return table


def show(*tables: Any, lines: Iterable[str] = ()) -> None:
    """Prints tables, or anything that `rich` can print, and lines below them."""
    console = terminal()
    for table in tables:
        console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)
