"""Errors that libraries raise about options, as ours. Apart from the parser, whose import of TRL takes a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from egup_trainer.errors import ConfigError, EgupError, first_line

OF_LIBRARIES = (ValueError, TypeError, OSError, ImportError)
"""What they raise."""


@contextmanager
def library_errors() -> Iterator[None]:
    """Raises `ConfigError` for the errors that libraries raise about options."""
    from yaml import YAMLError

    try:
        yield
    except EgupError:
        raise
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            got=f"a --config file that is not YAML{'' if mark is None else f' (line {mark.line + 1})'}",
            expected="lines such as `objective: npo`",
            fix="repair the file",
        ) from error
    except OF_LIBRARIES as error:
        raise ConfigError(
            got=f"options that cannot be used ({first_line(error)})", expected="valid flags", fix="change them"
        ) from error
