"""The order in which the study's pieces are run, so that a study that is stopped early still yields a table."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from benchmarks.runner import Piece, open_pieces
from benchmarks.study.methods import ABLATION, AUTO, LEADING, METHODS, OTHERS, rate_giver
from benchmarks.study.plan import FEWEST_RETRAINED, GRID, RETRAINED, RunSpec, Task, chosen_rate, grid_of, model_line
from benchmarks.study.summary import best_methods
from benchmarks.study.work import (
    COMPARED,
    Place,
    do_before,
    do_compared,
    do_retrained_again,
    evaluate,
    lines_of,
    try_rate,
)

SECONDS = {
    "before": 200,
    "tried": 90,
    "compared": 690,
    "run": 150,
    "again": 195,
    "large models": 800,
    "large run": 450,
}
"""What a piece takes on one core of the machine that the study was made on, while the other core is as busy."""

NUM_BEST, STRESSED = 3, "pdu"
"""The stress tests are for so many of the best methods, and for the best objective alone."""

STRESS_SEEDS = 3
"""How many of the test seeds are for the stress tests: the first ones."""


@dataclass(frozen=True)
class Choice:
    """What the user wants of the study.

    Args:
        tuning_seeds: seeds that choose the learning rates.
        test_seeds: seeds that the summary tells of.
        methods: those to be run.
        num_retrained: retrained models a seed, 2 to 5.
        tasks: stress tests.
    """

    tuning_seeds: Sequence[int]
    test_seeds: Sequence[int]
    methods: Sequence[str] = METHODS
    num_retrained: int = len(RETRAINED)
    tasks: Sequence[Task] = ()

    def of(self, methods: Iterable[str]) -> list[str]:
        """Those of the methods that are to be run."""
        return [method for method in methods if method in self.methods]


@dataclass(frozen=True)
class Round:
    """Pieces that do not need each other's results.

    Args:
        title: what they are, for the user.
        pieces: makes them, from the results of the rounds before.
        seconds: that one piece takes, about.
    """

    title: str
    pieces: Callable[[], list[Piece]]
    seconds: float

    def hours(self, workers: int) -> float:
        """What is open of it takes so long, about."""
        return len(open_pieces(self.pieces())) * self.seconds / workers / 3600


def rounds(place: Place, choice: Choice) -> list[Round]:
    """All rounds in order: the leading methods on all seeds, other ones, the ablation, auto, noise, stress tests."""
    tiers = {"leading methods": LEADING, "other objectives": OTHERS, "the ablation": ABLATION, "auto": AUTO}
    chosen = {title: found for title, methods in tiers.items() if (found := choice.of(methods))}
    grids = _grids({**chosen, "stress tests": [STRESSED] if choice.tasks else []}, choice.tuning_seeds)
    tests = partial(_specs, choice.methods, choice.test_seeds, choice)
    before_tests = [Round("Models of test seeds", _after(_compared, place, tests), SECONDS["compared"])]
    found = [Round("Models of tuning seeds", partial(_before, place, [*chain(*grids.values())]), SECONDS["before"])]
    for title, grid in grids.items():
        if grid:
            found.append(Round(f"Learning rates of {title}", partial(_tried, place, grid), SECONDS["tried"]))
        found += before_tests
        before_tests = []
        if title in chosen:
            runs = partial(_specs, chosen[title], choice.test_seeds, choice)
            found.append(Round(f"Runs of {title}", _after(_evaluated, place, runs), SECONDS["run"]))
    again = RETRAINED[FEWEST_RETRAINED : choice.num_retrained]
    if again:
        more = partial(_again, place, choice.test_seeds, again)
        found.append(Round("More retrained models", more, SECONDS["again"] * len(again)))
    if choice.tasks:
        stress = partial(_stress_specs, choice)
        found.append(Round("Models of stress tests", _after(_compared, place, stress), SECONDS["large models"]))
        found.append(Round("Stress tests", _after(_evaluated, place, stress), SECONDS["large run"]))
    return found


def _after(make: Callable[..., list[Piece]], place: Place, specs: Callable[[], list[RunSpec]]) -> Callable[[], Any]:
    """Makes pieces of runs that are known once the learning rates are chosen."""
    return lambda: make(place, specs())


def _grids(methods: dict[str, list[str]], seeds: Iterable[int]) -> dict[str, list[RunSpec]]:
    """The runs that choose the learning rates, one seed after the other; each in the first round that needs it."""
    found: dict[str, list[RunSpec]] = {}
    for title, each in methods.items():
        seen = set(chain(*found.values()))
        givers = dict.fromkeys(map(rate_giver, each))
        grid = (spec for seed in seeds for method in givers for spec in grid_of(method, [seed]))
        found[title] = [spec for spec in grid if spec not in seen]
    return found


def _stress_specs(choice: Choice) -> list[RunSpec]:
    """The best methods on each task; for the plan, where it is not known which these are, some."""
    best = best_methods(NUM_BEST) or LEADING[:NUM_BEST]
    methods, seeds = dict.fromkeys((*best, STRESSED)), choice.test_seeds[:STRESS_SEEDS]
    return [spec for task in choice.tasks for spec in _specs(methods, seeds, choice, task)]


def _specs(methods: Iterable[str], seeds: Iterable[int], choice: Choice, task: Task = Task.STUDY) -> list[RunSpec]:
    """The methods at their rates, one seed after the other; for the plan, where a rate is not chosen yet, at some."""
    rates = {method: chosen_rate(method, choice.tuning_seeds) or GRID[0] for method in methods}
    return [RunSpec(method, rate, seed, task) for seed in seeds for method, rate in rates.items()]


def _before(place: Place, grid: Iterable[RunSpec]) -> list[Piece]:
    """The models that open runs of the grid start from."""
    seeds = dict.fromkeys(spec.seed for spec in grid if not spec.tried.exists())
    return [Piece(f"before {seed}", (place.nlls(seed),), partial(do_before, place, seed)) for seed in seeds]


def _tried(place: Place, grid: Iterable[RunSpec]) -> list[Piece]:
    return [Piece(spec.name, (spec.tried,), partial(try_rate, place, spec)) for spec in grid]


def _compared(place: Place, specs: Iterable[RunSpec]) -> list[Piece]:
    """The models of each seed; where a run is open, these must be on this machine, too."""
    is_open: dict[tuple[int, bool], bool] = {}
    for spec in specs:
        key = (spec.seed, spec.task.is_large)
        is_open[key] = is_open.get(key, False) or not spec.evaluated.exists()
    pieces = []
    for (seed, is_large), needed in is_open.items():
        files = [place.evaluation(name, seed, is_large) for name in (*COMPARED, "base")] if needed else []
        do = partial(do_compared, place, seed, is_large)
        pieces.append(Piece(f"models {seed}", (*lines_of(seed, is_large), *files), do))
    return pieces


def _evaluated(place: Place, specs: Iterable[RunSpec]) -> list[Piece]:
    return [Piece(spec.name, (spec.evaluated,), partial(evaluate, place, spec)) for spec in specs]


def _again(place: Place, seeds: Iterable[int], names: Sequence[str]) -> list[Piece]:
    return [
        Piece(
            f"{', '.join(names)} {seed}",
            tuple(model_line(name, seed) for name in names),
            partial(do_retrained_again, place, names, seed),
        )
        for seed in seeds
    ]
