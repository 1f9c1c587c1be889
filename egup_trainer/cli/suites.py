"""The flags that name a suite and its rows, and the suite that they make."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from egup_trainer.cli.common import SourceArguments
from egup_trainer.errors import ConfigError, check_range, choose


class SuiteName(Enum):
    """The suites."""

    TOFU = "tofu"
    MUSE = "muse"
    CUSTOM = "custom"


_NEW_TOKENS = 200
_FLAGS = {  # what each suite reads; the first is what it cannot do without
    SuiteName.TOFU: ("forget_split", "holdout", "max_new_tokens"),
    SuiteName.MUSE: ("muse_corpus",),
    SuiteName.CUSTOM: ("forget", "retain", "holdout", "max_new_tokens"),
}


@dataclass
class SuiteArguments(SourceArguments):
    """What a suite needs besides its name. Which flags count depends on the suite."""

    forget_split: str | None = field(
        default=None, metadata={"help": "tofu: forget01, forget05 or forget10; the files of TOFU lie in --data_dir."}
    )
    muse_corpus: str | None = field(default=None, metadata={"help": "muse: news or books."})
    holdout: str | None = field(
        default=None,
        metadata={"help": "Rows of the forget set's kind that no model saw, for membership inference: a source."},
    )
    retrained: str | None = field(
        default=None,
        metadata={"help": "Results (JSON) of the retrained model on the same suite, for forget quality and privleak."},
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "tofu, custom: most tokens in a generation (default: 200)."}
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
        suite: its name, as given by the flag `option`.
        args, forget, retain, template, max_length: its rows, and how they are written.
        drop_overlap: whether rows of the other sets that are forget rows are left out instead of refused.

    Raises:
        ConfigError: a flag that the suite needs is missing, or one is given that it does not read.
        DataError: rows cannot be read, or a forget row of suite custom stands in another set.
    """
    from egup_trainer.data.overlap import keep_apart_from_forget
    from egup_trainer.evaluation.suites.custom import custom_suite
    from egup_trainer.evaluation.suites.muse import MuseCorpus, muse_suite
    from egup_trainer.evaluation.suites.tofu import tofu_suite

    name = choose(SuiteName, suite, option)
    _check_flags(name, {**vars(args), "forget": forget, "retain": retain})
    check_range(args, ("max_new_tokens",), low=1, whole=True)
    new_tokens = args.max_new_tokens or _NEW_TOKENS
    if name is SuiteName.TOFU:
        holdout = None if args.holdout is None else args.read(args.holdout)
        return tofu_suite(cast(str, args.forget_split), args.data_dir, holdout, template, max_length, new_tokens)
    if name is SuiteName.MUSE:
        return muse_suite(choose(MuseCorpus, args.muse_corpus, "muse_corpus"), args.data_dir, max_length)
    rows = {
        part: args.read(source)
        for part, source in (("forget", forget), ("retain", retain), ("holdout", args.holdout))
        if source is not None
    }
    rows = keep_apart_from_forget(**rows, drop=drop_overlap)
    return custom_suite(**rows, template=template, max_length=max_length, max_new_tokens=new_tokens)


def _check_flags(name: SuiteName, given: dict[str, Any]) -> None:
    needed, *_ = read = _FLAGS[name]
    if not given[needed]:
        raise ConfigError(
            got=f"suite {name.value} without --{needed}", expected="it to be given", fix=f"set --{needed}"
        )
    for flag in dict.fromkeys(flag for flags in _FLAGS.values() for flag in flags):
        if flag not in read and given[flag] is not None:
            flags = ", ".join(f"--{each}" for each in read)
            raise ConfigError(
                got=f"--{flag} with suite {name.value}, which does not read it",
                expected=f"its own flags: {flags}",
                fix=f"leave out --{flag}",
            )
