"""Runs parts one after another, each in a process that can be ended, and writes a line for each as it ends.

A process is forked from one that has imported everything but has not touched the GPU, so that a part starts in a
second instead of half a minute.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu.cases import Findings, Status, status_of
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.place import Place
from benchmarks.tables import Line

_LIBRARIES = ["peft", "transformers.models.llama.modeling_llama", "egup_trainer.cli.unlearn"]
_IMPORTED = [f"benchmarks.gpu.parts.{name}" for name in PARTS] + _LIBRARIES
_KINDS = ("forkserver", "spawn")
"""Ways to start a process, in Python's terms, in the order in which they are tried."""
_PRINTED = 15
"""Lines of a failed part's output that are shown."""


def _look(place: Place, findings: Findings) -> None:
    from benchmarks.gpu.start import look

    look(place, findings)


def _prepare(place: Place, findings: Findings) -> None:
    from benchmarks.gpu.start import prepare

    prepare(place, findings)


_MACHINE = Part("machine", _look, 0, 90)
_PREPARATION = Part("preparation", _prepare, 0, 180)


@dataclass
class Runner:
    """Runs parts within a number of minutes.

    Args:
        place: where they work.
        table: the results.
        minutes: for all of them together, from the making of this object on.
    """

    place: Place
    table: Path
    minutes: float
    _start: float = field(default_factory=time.monotonic)
    _kind: str = "forkserver"  # of process, in Python's terms
    _facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """Until the time is up."""
        return 60 * self.minutes - (time.monotonic() - self._start)

    def run(self, parts: Sequence[Part]) -> dict[str, dict[str, Any]]:
        """Runs parts and returns their lines, which are written by then."""
        obstacle = self._look_at_machine()
        if not obstacle:
            self._finish(_PREPARATION)
            obstacle = "" if self.place.has_model else "the preparation has failed"
        return {part.name: self._finish(part, obstacle) for part in parts}

    def _finish(self, part: Part, obstacle: str = "") -> dict[str, Any]:
        """Runs a part, unless something is in the way or too little time is left, and writes its line."""
        line: dict[str, Any] = {"status": Status.SKIPPED.value, "seconds": 0.0, "cases": []}
        if obstacle:
            line["reason"] = obstacle
        elif self.seconds_left < part.expected:
            line["reason"] = f"{self.seconds_left:.0f} s of {self.minutes:g} minutes are left, {part.expected:g} needed"
        else:
            line |= self._one(part, min(part.most, self.seconds_left))
        said = "" if line["reason"] is None else f": {line['reason']}"
        print(f"{part.name}: {line['status']} ({line['seconds']:.0f} s){said}", flush=True)
        for case in line["cases"]:
            said = "" if case["reason"] is None else f": {case['reason']}"
            print(f"    {case['name']}: {case['status']}{said}", flush=True)
        Line(self.table, part.name).write({**line, "device": self.place.device, "run": self._facts})
        return line

    def _look_at_machine(self) -> str:
        """Notes versions and machine; returns why nothing can run on it, or nothing.

        If CUDA fails in a forked process, all parts run in fresh ones.
        """
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # the usual check makes CUDA useless in forks
        for kind in _KINDS:
            self._kind = kind
            found = self._one(_MACHINE, _MACHINE.most)
            if found["status"] == Status.PASSED.value:
                self._facts = {**found["cases"][0]["measured"], "processes": kind}
                return ""
        return f"no machine to run on ({found['reason']})"

    def _one(self, part: Part, most: float) -> dict[str, Any]:
        """Runs a part in a process for at most so many seconds: its status, reason, seconds and cases."""
        path, log = (self.place.folder / f"{part.name}.{end}" for end in ("json", "log"))
        path.unlink(missing_ok=True)
        context = get_context(self._kind)
        if self._kind == "forkserver":
            context.set_forkserver_preload(_IMPORTED)
        begin = time.monotonic()
        process = context.Process(target=_enter, args=(part.work, self.place, path, log), daemon=False)
        process.start()
        process.join(most)
        ended = process.exitcode is not None
        if not ended:
            _end(process.pid or 0)
            process.join()
        seconds = round(time.monotonic() - begin, 1)
        cases = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        status, reason = status_of(cases), None
        if not ended or process.exitcode:
            status = Status.FAILED
            reason = f"ended with exit code {process.exitcode}" if ended else f"ended after {most:.0f} s"
        elif status is not Status.PASSED:
            wanted = [case for case in cases if case["status"] == status.value]
            reason = "; ".join(f"{case['name']}: {case['reason']}" for case in wanted) or "it found nothing"
        if status is Status.FAILED and log.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            print("\n".join(lines[-_PRINTED:]), file=sys.stderr, flush=True)
        return {"status": status.value, "reason": reason, "seconds": seconds, "cases": cases}


def _enter(work: Callable[[Place, Findings], None], place: Place, path: Path, log: Path) -> None:
    """Runs a part in its process, with all that it prints in a file."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    from egup_trainer.cli.terminal import quiet_libraries

    quiet_libraries()
    findings = Findings(path)
    try:
        work(place, findings)
    except Exception as error:  # between cases: it becomes a case of its own
        with findings.case("between cases" if findings.cases else "before the first case"):
            raise error


def _end(pid: int) -> None:
    """Ends a process and all that it has started, at once."""
    try:
        process = psutil.Process(pid)
        started = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for each in (process, *started):
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
