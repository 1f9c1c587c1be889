"""The terminal as commands print to it: names and reasons that others wrote are text there, never instructions."""

import sys
from collections.abc import Iterator
from typing import Any


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
