"""Optional dependencies: which packages each extra of `pip install egup-trainer[...]` brings."""

from importlib.util import find_spec

from egup_trainer.errors import ConfigError

EXTRAS = {
    "evaluation": ("evaluate", "rouge_score", "sklearn"),
    "lm-eval": ("lm_eval",),
    "proxies": ("rouge_score",),
    "quantization": ("bitsandbytes",),
    "report": ("matplotlib", "sklearn"),
}
"""Modules that are imported only where their extra is needed."""


class MissingExtraError(ConfigError):
    """A package that an extra installs is missing."""


def require_extra(extra: str, what: str) -> None:
    """Checks that the packages of an extra are installed; called before any work that would need them later.

    Args:
        extra: A key of `EXTRAS`.
        what: What needs the extra, such as "`egup evaluate`".

    Raises:
        MissingExtraError: A package is missing.

    Example:
        >>> require_extra("evaluation", "`egup evaluate`")
    """
    missing = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            got=f"{what} without {', '.join(missing)}",
            expected=f"the packages of the extra [{extra}]",
            fix=f"run `pip install 'egup-trainer[{extra}]'`",
        )
