"""Which runs the study is made of, in the order in which they can be done, and where their results lie."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import tables
from benchmarks.study.methods import ABLATION, HEADLINE, WITH_ALL, ablation_of
from benchmarks.tables import Line

RESULTS = tables.RESULTS / "study"
GRID = (3e-4, 1e-3, 3e-3)
SEEDS = (0, 1, 2)
"""The first one chooses the learning rates."""

RETAIN_RISE = 0.1
"""Most that the retain rows' mean l may rise for a learning rate to be eligible, nats a token: `stop_retain_rise`."""


@dataclass(frozen=True)
class RunSpec:
    """One training run."""

    method: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}_{self.learning_rate:g}_seed{self.seed}"

    @property
    def trained(self) -> Line:
        """What its training showed."""
        return Line(RESULTS / "trained.jsonl", self.name)

    @property
    def evaluated(self) -> Line:
        """What its model is worth, by every metric."""
        return Line(RESULTS / "evaluated.jsonl", self.name)


@dataclass(frozen=True)
class Record:
    """The results of one run: what was run, what came out, and on which machine.

    Args:
        experiment: method, learning rate, seed and options.
        values: numbers by name; None where there is none.
        run: versions and machine.
        curve: (step, forget probability) while relearning, for an evaluated model.
    """

    experiment: dict[str, Any]
    values: dict[str, float | None]
    run: dict[str, Any]
    curve: list[tuple[int, float]] = field(default_factory=list)

    def write(self, line: Line) -> None:
        """Writes it as a line of its table."""
        line.write(asdict(self))

    @classmethod
    def read(cls, line: Line) -> "Record":
        """Reads what `write` wrote."""
        return cls(**line.read())


def model_line(name: str, seed: int) -> Line:
    """The results of a seed's model, "before" or "retrained"."""
    return Line(RESULTS / "models.jsonl", f"{name}_seed{seed}")


def wordings_line(name: str, seed: int) -> Line:
    """How likely a model, "before", "retrained" or a method's, finds several wordings of the forget rows."""
    return Line(RESULTS / "wordings.jsonl", f"{name}_seed{seed}")


def grid_of(method: str) -> list[RunSpec]:
    """The method at every learning rate, with the first seed."""
    return [RunSpec(method, rate, SEEDS[0]) for rate in GRID]


def chosen_rate(method: str) -> float | None:
    """The learning rate by the boundary rule, from the first seed and without looking at the retrained model.

    Of the rates under which retain rows hold, the one under which forget rows look most like rows never seen; if retain
    rows hold under none, the one under which they hold best. A part of the ablation takes the rate of the whole: it is
    to be seen what it adds to the same run. None as long as the runs that decide it are missing.
    """
    specs = grid_of(rate_giver(method))
    if missing(specs, "trained"):
        return None
    return min(specs, key=lambda spec: _rank(Record.read(spec.trained).values)).learning_rate


def rate_giver(method: str) -> str:
    """The method whose learning rate it takes: its own, if it is of the headline."""
    return method if method in HEADLINE else method.split("+")[0] + WITH_ALL


def _rank(values: dict[str, Any]) -> tuple[float, float]:
    rise = values["retain_rise"]
    return (0.0 if rise <= RETAIN_RISE else rise, values["boundary_distance"])


def chosen_runs() -> list[RunSpec]:
    """Every method at its rate with every seed, as far as the rates are known: without and with all, then the parts."""
    whole = [name + suffix for name in ABLATION for suffix in ("", WITH_ALL)]
    parts = [method for objective in ABLATION for method in ablation_of(objective)]
    rates = {method: chosen_rate(method) for method in dict.fromkeys((*whole, *HEADLINE, *parts))}
    return [RunSpec(method, rate, seed) for method, rate in rates.items() if rate is not None for seed in SEEDS]


def missing(specs: Iterable[RunSpec], stage: str) -> list[RunSpec]:
    """Those that have no results of a stage yet, "trained" or "evaluated"."""
    return [spec for spec in specs if not getattr(spec, stage).exists()]
