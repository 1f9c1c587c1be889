"""Which runs the study is made of, and where their results lie."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from benchmarks import tables
from benchmarks.study.methods import rate_giver
from benchmarks.tables import Line

RESULTS = tables.RESULTS / "study"
GRID = (3e-4, 1e-3, 3e-3)
TUNING_SEEDS = tuple(range(5))
"""They choose the learning rates."""

TEST_SEEDS = tuple(range(20, 30))
"""They are looked at once, with nothing changed after."""

FURTHER_SEEDS = (30, 31, 32)
"""For the ablation and the stress tests. A seed's models and runs must be made on one machine, and those of the test
seeds are from several."""

OTHER_SEEDS = (33, 34, 35)
"""For the other objectives and the evidence on attacks. An earlier form of auto was looked at on them."""

AUTO_SEEDS = (36, 37, 38)
"""For the choice of learning rate and length (auto). It was changed after the seeds above, but before these, had been
looked at."""

RETRAINED = ("retrained", "retrained2", "retrained3", "retrained4", "retrained5")
"""A seed's retrained models: of another training seed each, hence with the rows in another order. Methods are compared
with the first; the others show how much of a distance is noise."""

FEWEST_RETRAINED = 2
"""A model finds its own words likelier than others' are, so the first one's generations are read by the second."""

RETAIN_RISE = 0.1
"""Most that the retain rows' mean l may rise for a learning rate to be eligible, nats a token: `stop_retain_rise`."""


class Task(str, Enum):
    """What is to be forgotten."""

    STUDY = "study"
    """The rows of 3 authors."""
    SCALE = "scale"
    """Four times as many."""
    SEQUENCE = "sequence"
    """The same ones as in `SCALE`, in four requests one after the other."""

    @property
    def is_large(self) -> bool:
        """Whether it forgets 12 authors, not 3."""
        return self is not Task.STUDY


@dataclass(frozen=True)
class RunSpec:
    """One training run."""

    method: str
    learning_rate: float
    seed: int
    task: Task = Task.STUDY

    @property
    def name(self) -> str:
        return f"{self.method}_{self.learning_rate:g}_seed{self.seed}" + (
            "" if self.task is Task.STUDY else f"_{self.task.value}"
        )

    @property
    def tried(self) -> Line:
        """What the boundary rule sees of it."""
        return Line(RESULTS / "tried.jsonl", self.name)

    @property
    def evaluated(self) -> Line:
        """What its model is worth, by every metric."""
        return Line(RESULTS / "methods.jsonl", self.name)


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


def model_line(name: str, seed: int, is_large: bool = False) -> Line:
    """The results of a model that runs are compared with: "before" or one of `RETRAINED`.

    Args:
        name: of the model.
        seed: whose rows it was trained and evaluated on.
        is_large: whether the forget set is that of 12 authors, not of 3.
    """
    return Line(RESULTS / "references.jsonl", f"{name}_seed{seed}" + ("_large" if is_large else ""))


def grid_of(method: str, seeds: Iterable[int]) -> list[RunSpec]:
    """The method at every learning rate, one seed after the other."""
    return [RunSpec(method, rate, seed) for seed in seeds for rate in GRID]


def seeds_with_all_rates(method: str, seeds: Iterable[int] = TUNING_SEEDS) -> list[int]:
    """The seeds that can choose the method's learning rate: those with a result for every one."""
    return [seed for seed in seeds if all(spec.tried.exists() for spec in grid_of(rate_giver(method), [seed]))]


def chosen_rate(method: str, seeds: Sequence[int] = TUNING_SEEDS) -> float | None:
    """The learning rate by the boundary rule, without looking at the retrained model.

    Of the rates under which retain rows hold, the one under which forget rows look most like rows never seen; if retain
    rows hold under none, the one under which they hold best. Both are means over the seeds that have results for every
    rate; None if there is no such seed. A part of the ablation takes the rate of the whole, so that the two runs
    differ in the part alone.
    """
    complete = seeds_with_all_rates(method, seeds)
    if not complete:
        return None

    def rank(rate: float) -> tuple[float, float]:
        found = [Record.read(RunSpec(rate_giver(method), rate, seed).tried).values for seed in complete]
        rise, distance = (statistics.fmean(each[key] for each in found) for key in ("retain_rise", "boundary_distance"))
        return (0.0 if rise <= RETAIN_RISE else rise, distance)

    return min(GRID, key=rank)
