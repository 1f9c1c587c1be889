"""The flags that name a suite and its rows, and the suite that they make."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from egup_trainer.cli.flags import SourceArguments, flag
from egup_trainer.errors import ConfigError, check_range, choose


class SuiteName(Enum):
    """The suites."""

    TOFU = "tofu"
    MUSE = "muse"
    CUSTOM = "custom"


_NEW_TOKENS = 200
_FLAGS = {  # the flags that each suite reads; it needs the first one
    SuiteName.TOFU: ("forget_split", "holdout", "max_new_tokens"),
    SuiteName.MUSE: ("muse_corpus",),
    SuiteName.CUSTOM: ("forget", "retain", "holdout", "max_new_tokens"),
}


@dataclass
class SuiteArguments(SourceArguments):
    """What a suite needs besides its name. Which flags it reads depends on the suite."""

    forget_split: str | None = flag("tofu: forget01, forget05 or forget10; the files of TOFU are in --data_dir.")
    muse_corpus: str | None = flag("muse: news or books.")
    holdout: str | None = flag(
        "Source of rows of the forget set's kind that no model has seen, for membership inference."
    )
    retrained: str | None = flag(
        "Results (JSON) of the retrained model on the same suite, for forget quality and privleak."
    )
    max_new_tokens: int | None = flag(
        f"tofu, custom: maximum number of tokens per generation (default: {_NEW_TOKENS})."
    )


def make_suite(
    suite: str,
    args: SuiteArguments,
    *,
    forget: str | None,
    retain: str | None,
    template: Any,
    max_length: int,
    drop_overlap: bool,
    option: str = "suite",
) -> Any:
    """The suite that the flags name.

    Args:
        suite: its name, the value of the flag `option`.
        args, forget, retain, template, max_length: its rows, and how they are written.
        drop_overlap: whether rows of the other sets that are also forget rows are left out instead of refused.

    Raises:
        ConfigError: a flag that the suite needs is missing, or one is given that it does not read.
        DataError: rows cannot be read, or a forget row of suite custom is also in another set.
    """
    from egup_trainer.data.overlap import keep_apart_from_forget
    from egup_trainer.evaluation.suites.custom import custom_suite
    from egup_trainer.evaluation.suites.muse import MuseCorpus, muse_suite
    from egup_trainer.evaluation.suites.tofu import tofu_suite

    name = choose(SuiteName, suite, option)
    _check_flags(name, {**vars(args), "forget": forget, "retain": retain})
    check_range(args, ("max_new_tokens",), low=1, whole=True)
    new_tokens = args.max_new_tokens or _NEW_TOKENS
    if name is SuiteName.MUSE:
        return muse_suite(choose(MuseCorpus, args.muse_corpus, "muse_corpus"), args.data_dir, max_length)
    if name is SuiteName.TOFU:
        holdout = None if args.holdout is None else args.read(args.holdout)
        return tofu_suite(str(args.forget_split), args.data_dir, holdout, template, max_length, new_tokens)
    sources = {"forget": forget, "retain": retain, "holdout": args.holdout}
    rows = {part: args.read(source) for part, source in sources.items() if source is not None}
    rows = keep_apart_from_forget(**rows, drop=drop_overlap)
    return custom_suite(**rows, template=template, max_length=max_length, max_new_tokens=new_tokens)


def _check_flags(name: SuiteName, given: dict[str, Any]) -> None:
    read = _FLAGS[name]
    if not given[read[0]]:
        raise ConfigError(
            got=f"suite {name.value} without --{read[0]}",
            expected=f"a value, since --{read[0]} is required for it",
            fix=f"set --{read[0]}",
        )
    for flag_name in dict.fromkeys(each for flags in _FLAGS.values() for each in flags):
        if flag_name not in read and given[flag_name] is not None:
            raise ConfigError(
                got=f"--{flag_name} with suite {name.value}, which does not read it",
                expected=f"its own flags: {', '.join(f'--{each}' for each in read)}",
                fix=f"leave out --{flag_name}",
            )
