"""Which models and methods are compared, at which rates and with which seeds, and where the results lie."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.study.methods import options_of
from benchmarks.study.plan import RETAIN_RISE, Record
from benchmarks.tables import Line

RESULTS = tables.RESULTS / "pretrained"


class Pretrained(str, Enum):
    """A pretrained model."""

    SMOLLM2 = "smollm2"
    GEMMA = "gemma"


class Size(str, Enum):
    """How much of TOFU is learned and unlearned."""

    SMALL = "small"
    FULL = "full"


LEARNED = ("before", "retrained", "retrained2")
"""Models that learn rows: with the forget set, and twice without it, the second time in another order. The distance of
the second retrained model to the first is the noise floor."""


@dataclass(frozen=True)
class Method:
    """A method that unlearns.

    Args:
        parts: the study's name of it: the objective, and what is added to it.
        more: further `EGUPConfig` options.
        knows_start: whether the expected outputs are those of the start model (`proxy_model`), which never saw a row.
    """

    parts: str
    more: dict[str, Any] = field(default_factory=dict)
    knows_start: bool = False

    @property
    def name(self) -> str:
        return self.parts + ("+start" if self.knows_start else "")

    @property
    def finds_rate(self) -> bool:
        """Whether it finds its learning rate itself (auto), and none is chosen for it."""
        return "auto" in self.parts.split("+")

    def options(self, start: str) -> dict[str, Any]:
        """`EGUPConfig` options, given the folder of the start model."""
        source = {"proxy_model": start} if self.knows_start else {}
        return {**options_of(self.parts), **self.more, **source}


METHODS = (
    Method("proxy_kl+auto"),
    Method("npo"),
    Method("grad_diff"),
    Method("simnpo"),
    Method("pdu"),
    Method("proxy_kl+auto", knows_start=True),
    Method("npo+egup+clreg"),
    Method("proxy_kl"),
    Method("proxy_kl", knows_start=True),
)
"""What is compared, each at its own learning rate, in the order of the runs: another method is another line. The first
is the default, without a flag but the sources."""

CHOOSING_SEED = 0
"""Its rows choose the learning rates; no method is evaluated on them."""


@dataclass(frozen=True)
class Plan:
    """What is run with a model.

    Args:
        name: of its tables.
        rates: learning rates that each method chooses from.
        seeds: whose rows the methods are evaluated on.
    """

    name: str
    rates: tuple[float, ...]
    seeds: tuple[int, ...]

    def evaluated(self, name: str, seed: int) -> Line:
        """What a model or method is worth, by every metric."""
        return Line(self._table, f"{name}_seed{seed}")

    @property
    def _table(self) -> Path:
        return RESULTS / f"{self.name}.jsonl"

    def names(self, seed: int) -> list[str]:
        """The models and methods that have been evaluated with a seed, in the order of this file."""
        found = (line.rpartition("_seed") for line in tables.read_table(self._table))
        order = (*LEARNED, *(method.name for method in METHODS))
        return sorted((name for name, _, of in found if of == str(seed)), key=lambda name: _place(name, order))

    def tried(self, method: str, rate: float) -> Line:
        """What the boundary rule sees of a method at a learning rate."""
        return Line(RESULTS / f"{self.name}_rates.jsonl", f"{method}_{rate:g}_seed{CHOOSING_SEED}")

    def untried(self, method: Method) -> list[float]:
        """The learning rates that have no results yet; empty if the method has only one, or finds its own."""
        if method.finds_rate or len(self.rates) == 1:
            return []
        return [rate for rate in self.rates if not self.tried(method.name, rate).exists()]

    def chosen_rate(self, method: Method) -> float | None:
        """The learning rate by the study's boundary rule. None if the method finds its own, or one has not been tried.

        Of the rates under which retain rows hold, the one under which forget rows look most like rows never seen; if
        retain rows hold under none, the one under which they hold best.
        """
        if method.finds_rate or self.untried(method):
            return None
        if len(self.rates) == 1:
            return self.rates[0]

        def rank(rate: float) -> tuple[float, float]:
            values: dict[str, Any] = Record.read(self.tried(method.name, rate)).values
            rise = values["retain_rise"]
            return (0.0 if rise <= RETAIN_RISE else rise, values["boundary_distance"])

        return min(self.rates, key=rank)


def _place(name: str, order: tuple[str, ...]) -> int:
    return order.index(name) if name in order else len(order)


PLANS = {
    (Pretrained.SMOLLM2, Size.SMALL): Plan("smollm2", rates=(2e-5, 6e-5, 2e-4), seeds=(20, 21, 22)),
    (Pretrained.GEMMA, Size.SMALL): Plan("gemma", rates=(7e-6, 2e-5, 6e-5), seeds=(20,)),
    (Pretrained.GEMMA, Size.FULL): Plan("gemma_full", rates=(1e-5,), seeds=(20,)),
}
"""By model and size; a size that a model lacks would be too small for it."""
