"""Tables of options, read from the fields of dataclasses."""

from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from inspect import get_annotations
from types import UnionType
from typing import Any, get_args

from griffe import Docstring, DocstringSectionKind

from egup_trainer.options import owner_of
from generate.tables import code, table


@dataclass(frozen=True)
class Option:
    """A field of a dataclass as the documentation shows it."""

    name: str
    type: str
    default: str
    help: str


def own_options(config: type, beyond: type = object) -> list[Option]:
    """The fields of a dataclass that itself or its bases in this package declare, in their order.

    Args:
        config: The dataclass.
        beyond: A base whose fields are left out.

    Raises:
        ValueError: A field has neither a help text nor a line under Args in the docstring.
    """
    options = []
    for each in fields(config):
        owner = owner_of(each.name, config)
        if owner is config or (owner.__module__.startswith("egup_trainer") and not issubclass(beyond, owner)):
            # The parser of transformers changes the types that fields store, but not the annotations.
            options.append(_option(each, get_annotations(owner)[each.name], _described(owner)))
    silent = [option.name for option in options if not option.help]
    if silent:
        raise ValueError(f"fields of {config.__name__} without a help text: {', '.join(silent)}")
    return options


def options_table(config: type, beyond: type = object) -> str:
    """A table of `own_options` with type, default and meaning."""
    options = own_options(config, beyond)
    rows = [[code(each.name), code(each.type), code(each.default), each.help] for each in options]
    return table(["name", "type", "default", "meaning"], rows)


def show(value: Any) -> str:
    """A default value as a user would write it.

    Example:
        >>> show(None), show("\\nAnswer: "), show(0.1)
        ('none', "'\\\\nAnswer: '", '0.1')
    """
    if isinstance(value, Enum):
        return str(value.value)
    if value is None:
        return "none"
    is_plain = not isinstance(value, str) or value == value.strip() != ""
    return str(value) if is_plain else repr(value)


def _option(each: Field, annotation: Any, described: dict[str, str]) -> Option:
    made = each.default_factory() if each.default_factory is not MISSING else each.default
    default = "" if made is MISSING else show(made)
    return Option(each.name, _type(annotation), default, each.metadata.get("help") or described.get(each.name, ""))


def _type(annotation: Any) -> str:
    if isinstance(annotation, UnionType):
        return " or ".join(_type(each) for each in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(str(each.value) for each in annotation)
    if annotation is type(None):
        return "none"
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _described(config: type) -> dict[str, str]:
    sections = Docstring(config.__doc__ or "").parse("google", warnings=False)
    found = [section for section in sections if section.kind is DocstringSectionKind.parameters]
    return {each.name: _sentence(each.description) for section in found for each in section.value}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
