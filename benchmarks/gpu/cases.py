"""What a part finds: cases with checks against expected numbers, written to a file as each case ends."""

import json
import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from egup_trainer.errors import first_line
from egup_trainer.files import write_file

_FRAMES = 6
"""How many lines of a traceback are kept, the innermost last."""


class Status(str, Enum):
    """What became of a case or of a part."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class SkipCase(Exception):
    """Raised within a case that cannot run here; its text is the reason."""


@dataclass
class Case:
    """One thing that is tried.

    Args:
        name: unique within the part.
        status: what became of it.
        reason: why it was skipped or has failed; None for one that passed.
        where: the innermost lines of a traceback, as "file:line function".
        checks: what was compared; a check that does not hold fails the case, and the case goes on.
        measured: other numbers, which nothing is compared with.
    """

    name: str
    status: Status = Status.PASSED
    reason: str | None = None
    where: list[str] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    def near(
        self, what: str, found: Sequence[float], expected: Sequence[float], at_most: float, relative: bool = False
    ) -> None:
        """Checks that numbers are near others.

        Args:
            what: what they are.
            found, expected: equally many numbers.
            at_most: bound of the largest difference; with `relative`, as a share of the largest expected number.
            relative: whether differences are divided by that number.
        """
        scale = max(map(abs, expected), default=0.0) if relative else 1.0
        same = len(found) == len(expected) > 0
        off = max(map(abs, map(float.__sub__, map(float, found), map(float, expected))), default=0.0) / (scale or 1.0)
        holds = same and math.isfinite(off) and off <= at_most
        kind = "relative" if relative else "absolute"
        self._add(what, holds, found=list(found), expected=list(expected), off=off, at_most=at_most, kind=kind)

    def below(self, what: str, found: float, at_most: float) -> None:
        """Checks that a number is at most another."""
        self._add(what, found <= at_most, found=found, at_most=at_most)

    def equal(self, what: str, found: Any, expected: Any) -> None:
        """Checks that a value is the expected one."""
        self._add(what, found == expected, found=found, expected=expected)

    def _add(self, what: str, holds: bool, **numbers: Any) -> None:
        self.checks.append({"what": what, "holds": bool(holds), **_finite(numbers)})
        if not holds and self.status is Status.PASSED:
            self.status, self.reason = Status.FAILED, f"{what}: {_short(numbers)}"

    def fail(self, error: BaseException) -> None:
        """Notes the error that ended the case."""
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        self.status, self.reason = Status.FAILED, f"{type(error).__name__}: {first_line(error)}"
        self.where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


class Findings:
    """The cases of a part, in a file that is complete after each of them.

    Args:
        path: the file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     findings = Findings(Path(folder) / "part.json")
        ...     with findings.case("sums") as case:
        ...         case.near("1 + 1", [2.0], [2.0], at_most=0.0)
        ...     with findings.case("flights"):
        ...         raise SkipCase("no wings")
        >>> [(case.name, case.status.value, case.reason) for case in findings.cases]
        [('sums', 'passed', None), ('flights', 'skipped', 'no wings')]
    """

    def __init__(self, path: Path):
        self.path, self.cases = path, list[Case]()

    @contextmanager
    def case(self, name: str) -> Iterator[Case]:
        """A case, which ends with the block; an error in the block fails this case alone."""
        case = Case(name)
        try:
            yield case
        except SkipCase as skip:
            case.status, case.reason = Status.SKIPPED, str(skip)
        except Exception as error:  # whatever a library raises on a machine that it never ran on
            traceback.print_exc()
            case.fail(error)
        self.cases.append(case)
        write_file(self.path, json.dumps([asdict(each) for each in self.cases], allow_nan=False), private=False)


def status_of(cases: Sequence[dict[str, Any]]) -> Status:
    """Of a part, from its cases as they were written: failed if one has failed, skipped if all were skipped."""
    found = {case["status"] for case in cases}
    if Status.FAILED in found:
        return Status.FAILED
    return Status.PASSED if Status.PASSED in found else Status.SKIPPED


def _finite(value: Any) -> Any:
    """The value with None in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(numbers: dict[str, Any]) -> str:
    names = ("off", "at_most") if "off" in numbers else tuple(numbers)
    return ", ".join(
        f"{name} {numbers[name]:.3g}" if isinstance(numbers[name], float) else f"{name} {numbers[name]}"
        for name in names
    )
