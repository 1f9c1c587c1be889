"""Options are written once, beside the code that reads them; a configuration inherits from such groups."""

from dataclasses import field
from inspect import get_annotations
from typing import Any, ClassVar, TypeVar


def option(default: Any, help: str) -> Any:
    """A dataclass field whose help text is shown by the command line and in the docs."""
    return field(default=default, metadata={"help": help})


_Value = TypeVar("_Value", float, str)
_STAND_INS: dict[Any, Any] = {}


def stand_in(value: _Value) -> _Value:
    """A number or a name that stands where the user gave none: an object that no other code has.

    A copy by `dataclasses.replace` is made with the same object, and `is_unset` thereby knows that nothing was given.
    It is a plain float or text, since optimizers keep the learning rate that they are made with, and write it to
    checkpoints.

    Args:
        value: a number, or a text of at least two characters, since Python keeps one object for each character.

    Example:
        >>> is_unset(stand_in(1e-5)), is_unset(1e-5), is_unset(stand_in("nll")), is_unset("nll"), is_unset(None)
        (True, False, True, False, True)
    """
    return _STAND_INS.setdefault(value, "".join(list(value)) if isinstance(value, str) else float(repr(value)))


def is_unset(value: Any) -> bool:
    """Whether the user has not given the value of an option."""
    return value is None or (isinstance(value, float | str) and value is _STAND_INS.get(value))


class OptionGroup:
    """Base of dataclasses that hold the options of one component or loss.

    `UnlearnConfig` and `EGUPConfig` inherit from such groups, so that each option is a field of the configuration and
    a flag of the command line, and call `check_options` of each of them.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class WarmthOptions(OptionGroup):
        ...     warmth: float = option(1.0, "Warmth of the model; above 0.")
    """

    help_title: ClassVar[str] = "Method"
    """The group of these options in the help of commands."""

    def check_options(self) -> None:
        """Raises `ConfigError` if the values of this group cannot work; may replace text by the value it names."""


def owner_of(name: str, config: type) -> type:
    """The most derived class that declares a field of `config`."""
    return next(each for each in config.__mro__ if name in get_annotations(each))


def check_all_groups(config: Any) -> None:
    """Calls `check_options` of each group that a configuration inherits from, base classes first."""
    for group in reversed(type(config).__mro__):
        if issubclass(group, OptionGroup) and "check_options" in vars(group):
            group.check_options(config)
