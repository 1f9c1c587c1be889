"""Which models the comparison is made of, and where their results lie."""

from enum import Enum

from benchmarks import tables
from benchmarks.study.methods import WITH_ALL
from benchmarks.tables import Line

RESULTS = tables.RESULTS / "gemma"


class Size(str, Enum):
    """How much of TOFU is learned and unlearned."""

    SMALL = "small"
    FULL = "full"


MODELS = ("retrained", "before")
"""What the methods are compared with; "before" is compared with "retrained", which is therefore evaluated first."""

METHODS = tuple(objective + suffix for objective in ("grad_diff", "npo") for suffix in ("", WITH_ALL))


def record_line(size: Size, name: str, seed: int) -> Line:
    """The results of a model or method."""
    return Line(RESULTS / f"{size.value}.jsonl", f"{name}_seed{seed}")
