"""The flags that describe a suite and its rows, and the suite that they make."""

from dataclasses import dataclass
from typing import Any, TypeVar

from egup_trainer.cli.flags import SourceArguments, flag
from egup_trainer.errors import ConfigError, check_range, did_you_mean
from egup_trainer.evaluation.suites import SUITES, SuiteSpec

SUITE_FLAGS = [
    *(name for suite in SUITES.values() for name in suite.flags),
    *("holdout", "neighbor", "retrained", "max_new_tokens"),
]
"""The flags of `SuiteArguments` that serve suites alone."""
_ROWS = ("forget", "retain", "holdout", "neighbor")
_GENERAL = {"data_dir", "template", "max_length"}  # not flags of suites alone
_Class = TypeVar("_Class", bound=type)


def _with_flags_of_suites(config: _Class) -> _Class:
    """Adds the flags that only one suite has."""
    for suite in SUITES.values():
        for name, text in suite.flags.items():
            config.__annotations__[name] = str | None
            setattr(config, name, flag(text))
    return config


@dataclass
@_with_flags_of_suites
class SuiteArguments(SourceArguments):
    """What a suite needs besides its name. Which flags it reads depends on the suite."""

    help_title = "Evaluation"

    holdout: str | None = flag(
        "Source of rows of the forget set's kind that no model has seen, for membership inference."
    )
    neighbor: str | None = flag(
        "custom: source of rows on related things, which the model should still know; their damage is reported."
    )
    retrained: str | None = flag(
        "Results (JSON) of the retrained model on the same suite, for forget quality and privleak; also TOFU_EVAL.json "
        "or MUSE_EVAL.json of OpenUnlearning."
    )
    max_new_tokens: int | None = flag("Maximum number of tokens per generation of the suite (default: 200; rwku: 32).")


def suite_named(name: str, option: str = "suite") -> SuiteSpec:
    """The declaration of a suite.

    Raises:
        ConfigError: there is no such suite; `option` is the flag that named it.
    """
    if name not in SUITES:
        raise ConfigError(
            got=f"{option}={name!r}",
            expected=f"one of {', '.join(SUITES)}",
            fix=did_you_mean(name, SUITES, f"set --{option}"),
        )
    return SUITES[name]


def make_suite(
    suite: SuiteSpec,
    args: SuiteArguments,
    *,
    forget: str | None,
    retain: str | None,
    template: Any,
    max_length: int,
    drop_overlap: bool,
) -> Any:
    """The suite that the flags describe; `drop_overlap` leaves out rows that are also forget rows.

    Raises:
        ConfigError: a flag that the suite needs is missing, or one is given that it does not read.
        DataError: rows cannot be read, or a forget row is also in another set of the user's own rows.
    """
    from egup_trainer.data.overlap import keep_apart_from_forget

    given = {**vars(args), "forget": forget, "retain": retain, "template": template, "max_length": max_length}
    _check_flags(suite, given)
    check_range(args, ("max_new_tokens",), low=1, whole=True)
    rows = {name: args.read(given[name]) for name in _ROWS if given[name] is not None}
    if "forget" in suite.parameters:  # the user's own rows
        rows = keep_apart_from_forget(**rows, drop=drop_overlap)
    values = {parameter.name: {**given, **rows}[name] for name, parameter in suite.parameters.items()}
    return suite.make(**{name: value for name, value in values.items() if value is not None})


def _check_flags(suite: SuiteSpec, given: dict[str, Any]) -> None:
    for name in suite.required:
        if not given[name]:
            raise ConfigError(
                got=f"suite {suite.name} without --{name}",
                expected=f"a value, since --{name} is required for it",
                fix=f"set --{name}",
            )
    known = dict.fromkeys(name for each in SUITES.values() for name in each.parameters if name not in _GENERAL)
    for name in known:
        if name not in suite.parameters and given[name] is not None:
            raise ConfigError(
                got=f"--{name} with suite {suite.name}, which does not read it",
                expected=f"its own flags: {', '.join(f'--{each}' for each in known if each in suite.parameters)}",
                fix=f"leave out --{name}",
            )
