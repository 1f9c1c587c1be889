"""The errors that a user can meet. Each says in one line what was found, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from functools import partial
from typing import TypeVar

_Choice = TypeVar("_Choice", bound=Enum)
_INFINITY = float("inf")
_MISSPELT, _SIMILAR, _GUESSES = 0.9, 0.78, 3
"""For `did_you_mean`: how similar two names must be, and how many names are suggested at most."""


class EgupError(ValueError):
    """Base class of all errors that this package raises on purpose.

    The command line prints such an error as one line and exits with code 2.

    Args:
        got: What was found, as a short noun phrase. It never contains the text of a row.
        expected: What should have been there, as a noun phrase.
        fix: What the reader can do about it: an instruction or a question.

    Example:
        >>> str(EgupError(got="0 rows", expected="at least 1", fix="check the file"))
        'Got 0 rows, but expected at least 1. Check the file.'
    """

    def __init__(self, *, got: str, expected: str, fix: str):
        super().__init__(f"Got {got}, but expected {expected}. {_as_sentence(fix)}")
        self.got, self.expected, self.fix = got, expected, fix

    def __reduce__(self) -> tuple:  # data-loader workers send errors through pickle
        return partial(type(self), got=self.got, expected=self.expected, fix=self.fix), ()


def _as_sentence(text: str) -> str:
    # A file, a flag or an option keeps its spelling.
    first = text.split(maxsplit=1)[0].rstrip(",:;")
    start = text[0].upper() + text[1:] if first.isalpha() and first.islower() else text
    return start if start.endswith((".", "?", "!")) else f"{start}."


class ConfigError(EgupError):
    """An option has a value that cannot work, or two options exclude each other."""


class DataError(EgupError):
    """A row, a file or a data set cannot be used."""


class ModelError(EgupError):
    """A model or tokenizer cannot be used for what was asked."""


class TooFewPositionsError(ModelError):
    """A text is longer than a model can read."""


class LostAnswerError(ModelError):
    """A chat template does not write an answer as it is."""


class TooFewProxiesError(ModelError):
    """A model is too weak to write rows that could serve as proxies."""


class UnaskableRowsError(DataError):
    """A model cannot be asked for more rows of this kind, such as conversations of several turns."""


class NumberError(EgupError):
    """A loss or a gradient is not a finite number."""


class StateError(EgupError):
    """A saved file does not belong to this run, or a folder cannot be written to."""


def first_line(error: Exception) -> str:
    """The first line of another library's error, together with the second one if the first is only a heading.

    Args:
        error: The error, as the library raised it.

    Example:
        >>> first_line(ValueError("Errors:\\n  no such file")), first_line(KeyError())
        ('Errors: no such file', 'KeyError')
    """
    first, *rest = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{first} {rest[0]}" if first.endswith(":") and rest else first


def did_you_mean(name: object, known: Iterable[str], otherwise: str) -> str:
    """Suggests, as a question, known names that begin with an unknown name, contain its words, or are spelled alike.

    Args:
        name: The unknown name.
        known: All known names. If two differ only in _ and -, the first is suggested.
        otherwise: What to return if no name is similar.

    Example:
        >>> did_you_mean("npoo", ["npo", "rmu"], "set --objective"), did_you_mean("x", ["npo"], "set --objective")
        ('did you mean npo?', 'set --objective')
        >>> did_you_mean("--model", ["--model_name_or_path", "--dtype"], "remove it")
        'did you mean --model_name_or_path?'
    """
    names = {_plain(each): each for each in reversed(list(known))}
    plain = _plain(name)
    misspelt, similar = (get_close_matches(plain, names, n=1, cutoff=cutoff) for cutoff in (_MISSPELT, _SIMILAR))
    begin = [each for each in names if len(plain) > 1 and each.startswith(plain)]
    have_words = [each for each in names if set(plain.split("_")) <= set(each.split("_"))]
    like = misspelt or begin or have_words or similar
    guesses = [names[each] for each in sorted(like, key=len)[:_GUESSES]]
    return f"did you mean {' or '.join(guesses)}?" if guesses else otherwise


def _plain(name: object) -> str:
    return str(name).lower().lstrip("-").replace("-", "_")


def choose(choices: type[_Choice], value: object, name: str) -> _Choice:
    """Converts an option's value to the member of an enumeration.

    Args:
        choices: The enumeration.
        value: The value.
        name: The name of the option.

    Raises:
        ConfigError: There is no such member. The message lists all members.
    """
    try:
        return choices(value)
    except ValueError:
        allowed = [choice.value for choice in choices]
        raise ConfigError(
            got=f"{name}={value!r}",
            expected=f"one of {', '.join(allowed)}",
            fix=did_you_mean(value, allowed, f"set --{name}"),
        ) from None


def check_range(
    config: object,
    names: tuple[str, ...],
    low: float,
    high: float = _INFINITY,
    low_is_allowed: bool = True,
    whole: bool = False,
) -> None:
    """Checks that fields of a dataclass are numbers within a range. None is accepted if it is the default of the field.

    Args:
        config: An instance of the dataclass.
        names: The names of the fields.
        low: The lower end of the range.
        high: The upper end of the range, which belongs to the range.
        low_is_allowed: Whether `low` belongs to the range, too.
        whole: Whether the numbers must be whole.

    Raises:
        ConfigError: A field is outside the range.
    """
    for name in names:
        value = getattr(config, name)
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        may_lack = getattr(type(config), name, None) is None
        if (value is None and may_lack) or (
            fits and low <= value <= high and value < _INFINITY and (low_is_allowed or value > low)
        ):
            continue
        bound = f"a {'whole ' if whole else ''}number {'of at least' if low_is_allowed else 'above'} {low:g}"
        upper = f" and at most {high:g}" if high < _INFINITY else ""
        raise ConfigError(got=f"{name}={value}", expected=bound + upper, fix=f"set --{name}")


def check_layer(config: object, *names: str) -> None:
    """Checks that the fields `names` of `config` can name a layer of some model: by index, or as a share of the depth.

    Raises:
        ConfigError: A field cannot be a layer in any model.
    """
    for name in names:
        value = getattr(config, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not (0 < value < 1 or value % 1 == 0):
            raise ConfigError(
                got=f"{name}={value}", expected="a fraction between 0 and 1, or a whole number", fix=f"set --{name}"
            )


def read_number_or_auto(name: str, value: float | str | None) -> float | str:
    """Reads the `value` of the option `name`: "auto", or a number above 0, which may be given as text.

    Raises:
        ConfigError: The value is neither.
    """
    if value == "auto":
        return value
    try:
        number = 0.0 if value is None else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < _INFINITY:
        raise ConfigError(got=f"{name}={value}", expected="a number above 0, or auto", fix=f"set --{name}")
    return number
