"""The parts of the check, in the order in which they run; each is a function in the file of its name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from benchmarks.gpu.cases import Findings
from benchmarks.gpu.place import Place


@dataclass(frozen=True)
class Part:
    """What runs in a process of its own.

    Args:
        name: of its line in the results.
        work: does it, and notes what it finds.
        expected: seconds that it takes, by a guess from runs on CPUs; it is not started if fewer are left.
        most: seconds after which it is ended. What it has found by then is kept.
    """

    name: str
    work: Callable[[Place, Findings], None]
    expected: float
    most: float


def _part(name: str, expected: float, most: float) -> Part:
    return Part(name, partial(_run, name), expected, most)


def _run(name: str, place: Place, findings: Findings) -> None:
    """Imports a part where it runs: the process that starts the parts needs none of their libraries."""
    import_module(f"benchmarks.gpu.parts.{name}").__dict__[name](place, findings)


PARTS = {
    part.name: part
    for part in (
        _part("precision", 20, 60),
        _part("attention", 25, 60),
        _part("packing", 20, 60),
        _part("four_bit", 25, 75),
        _part("eight_billion", 45, 90),
        _part("memory_plan", 45, 120),
        _part("whole_run", 60, 120),
        _part("engines", 45, 120),
        _part("writing", 30, 75),
        _part("kernels", 15, 45),
        _part("compiling", 60, 150),
    )
}
"""By name. Compilation comes last: it may take the longest, and the fewest runs need it."""
