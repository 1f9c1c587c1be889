"""Whose definitions the metrics of results follow, and where those of OpenUnlearning differ from ours.

The differences are those of OpenUnlearning's code in 2025 (`src/evals/metrics`, `src/data/utils.py`). docs/migrating.md
has them as a table.
"""

from enum import Enum
from typing import Any

SETTING = "definitions"
"""In the settings of results, whose definitions their metrics follow, where they are not ours."""


class Definitions(str, Enum):
    """Whose definitions metrics follow."""

    OURS = "egup-trainer"
    OPEN_UNLEARNING = "open-unlearning"

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Definitions":
        """Those that results with these settings follow."""
        return cls.OPEN_UNLEARNING if cls.OPEN_UNLEARNING.value in settings.values() else cls.OURS

    @property
    def settings(self) -> dict[str, Any]:
        """What the settings of results say of it; nothing for our own."""
        return {} if self is Definitions.OURS else {SETTING: self.value}


_LAST_TOKEN = "OpenUnlearning leaves out the last token of each text, which closes no answer in plain text"
_IN_PLAIN_TEXT = ("exact_memorization", "mia_min_k", "mia_min_k_plus_plus", "privleak")
_EVERYWHERE = {
    "extraction_strength": "OpenUnlearning gives 1/n, not 0, to a row of which no end is recited",
    "mia_zlib": "OpenUnlearning compresses the decoded answer tokens, which may begin with a space",
    "mia_gradnorm": "OpenUnlearning takes the mean of the norms of each weight's gradient",
}


def why_not_comparable(metric: str, suite: str) -> str | None:
    """Why OpenUnlearning's value of a metric is another quantity than ours; None if it is the same.

    Args:
        metric: key in our results, such as "forget_extraction_strength".
        suite: "tofu" or "muse", whose texts have no token that closes an answer.

    Example:
        >>> why_not_comparable("forget_probability", "tofu") is None
        True
    """
    differs = _EVERYWHERE | (dict.fromkeys(_IN_PLAIN_TEXT, _LAST_TOKEN) if suite == "muse" else {})
    return next((why for name, why in differs.items() if metric == name or metric.endswith(f"_{name}")), None)
