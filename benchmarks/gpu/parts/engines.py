"""FSDP2 and DeepSpeed ZeRO-3 in processes of their own, started as docs/scaling.md starts them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import Case, Findings, SkipCase
from benchmarks.gpu.place import Place
from benchmarks.gpu.training import EXACT, ROUNDED, Outcome, compare, on_the_cpu, train

_ROOT = Path(__file__).parents[3]
_FIRST_PORT = 29_601


@dataclass(frozen=True)
class Launch:
    """A run under `accelerate launch`.

    Args:
        engine: a file of accelerate_configs, by its name.
        precision: "no" (float32) or "bf16", as in that file.
        processes: how many train together, each on a GPU of its own.
    """

    engine: str
    precision: str
    processes: int = 1

    @property
    def name(self) -> str:
        """As in the results."""
        counted = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return f"{self.engine}, {'bfloat16' if self.precision == 'bf16' else 'float32'}, {counted}"


LAUNCHES = (
    Launch("ddp", "no"),
    Launch("fsdp2", "no"),
    Launch("fsdp2", "bf16"),
    Launch("zero3", "no"),
    Launch("zero3", "bf16"),
    Launch("fsdp2", "no", 2),
    Launch("zero3", "no", 2),
)
WRAPPED = {"fsdp2": "FSDP", "zero3": "DeepSpeedEngine"}
"""What the class of the wrapped model is called, in part."""


def engines(place: Place, findings: Findings) -> None:
    """All launches at the same time, since most of a small run is imports; each against a plain run."""
    running = dict(_start_all(place))
    expected = {"no": on_the_cpu(place)}
    for launch in LAUNCHES:
        with findings.case(launch.name) as case:
            _refuse(launch, place)
            if launch.precision not in expected:
                expected[launch.precision] = train(place, bf16=True)
            found = _result(place, launch, running[launch])
            _check(case, launch, found, expected[launch.precision])


def _check(case: Case, launch: Launch, found: Outcome, expected: Outcome) -> None:
    case.equal("processes", found.processes, launch.processes)
    case.equal("wrapped by the engine", WRAPPED.get(launch.engine, "") in found.wrapped, True)
    compare(case, found, expected, EXACT if launch.precision == "no" else ROUNDED)
    case.measured["wrapped"] = found.wrapped


def _refuse(launch: Launch, place: Place) -> None:
    """Skips a launch that cannot work here."""
    import torch

    if place.dry and launch.engine != "ddp":
        raise SkipCase("accelerate runs this engine on GPUs only")
    if launch.engine == "zero3" and find_spec("deepspeed") is None:
        raise SkipCase("deepspeed is not installed")
    if launch.processes > max(torch.cuda.device_count(), 1):
        raise SkipCase(f"{launch.processes} GPUs are needed, and there are {torch.cuda.device_count()}")


def _start_all(place: Place) -> Iterator[tuple[Launch, "subprocess.Popen[bytes]"]]:
    for number, launch in enumerate(LAUNCHES):
        try:
            _refuse(launch, place)
        except SkipCase:
            continue
        words = [sys.executable, "-m", "accelerate.commands.launch"]
        words += ["--config_file", str(_ROOT / "accelerate_configs" / f"{launch.engine}.yaml")]
        words += ["--num_processes", str(launch.processes), "--main_process_port", str(_FIRST_PORT + number)]
        words += ["--mixed_precision", launch.precision, *(["--cpu"] if place.dry else [])]
        words += ["-m", "benchmarks.gpu.engine", str(place.folder), str(_path(place, launch)), launch.precision]
        words += [str(launch.processes), *(["--dry_run"] if place.dry else [])]
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with _log(place, launch).open("wb") as log:
            yield launch, subprocess.Popen(words, cwd=_ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _result(place: Place, launch: Launch, process: "subprocess.Popen[bytes]") -> Outcome:
    """What the first process of a launch has written.

    Raises:
        RuntimeError: the launch has failed; with the last error that its processes printed.
    """
    code = process.wait()
    if code:
        printed = _log(place, launch).read_text(encoding="utf-8", errors="replace")
        print(printed[-4000:], flush=True)
        errors = [line for line in printed.splitlines() if "Error" in line and not line.startswith((" ", "\t"))]
        said = next((line for line in errors if "ChildFailedError" not in line), "no error was printed")
        raise RuntimeError(f"exit code {code}: {said[:300]}")
    values: dict[str, Any] = json.loads(_path(place, launch).read_text(encoding="utf-8"))
    return Outcome(**values)


def _path(place: Place, launch: Launch) -> Path:
    return place.folder / f"{launch.engine}_{launch.precision}_{launch.processes}.json"


def _log(place: Place, launch: Launch) -> Path:
    return _path(place, launch).with_suffix(".log")
