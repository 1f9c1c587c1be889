"""Docstrings of this package have the section "Example:", but griffe shows only "Examples:" as code."""

from typing import Any

from griffe import Extension


class ExamplesAsCode(Extension):
    """Renames the section before griffe parses it."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = f"{obj.docstring.value}\n".replace("\nExample:\n", "\nExamples:\n").rstrip()
