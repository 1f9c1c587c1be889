"""`egup unlearn` with nothing but the sources, from the files of a model to a verdict; then the same on the CPU."""

import json
import time
from typing import Any

from benchmarks.gpu.cases import Findings
from benchmarks.gpu.place import SETS, Place
from egup_trainer.verdict import Status

_NEAR = 0.1
"""Of a mean probability, which is between 0 and 1: two runs that chose their learning rates themselves."""


def whole_run(place: Place, findings: Findings) -> None:
    """The verdict on the GPU, which must be that of the CPU, and probabilities after both."""
    found: dict[str, Any] = {}
    for name in ("GPU", "CPU"):
        if place.dry and name == "GPU":
            continue
        with findings.case(f"on the {name}") as case:
            record, code, seconds = _unlearn(place, name)
            status = Status(record["verdict"]["status"])
            case.equal("exit code", code, 0 if status is Status.FORGOTTEN else 3)
            options = record["options"]
            case.measured |= {"verdict": status.value, "steps": record["steps"], "seconds": round(seconds, 1)}
            case.measured |= {"learning_rate": options["learning_rate"], "probability": record["probability"]}
            found[name] = record
    if len(found) == 2:
        with findings.case("GPU and CPU") as case:
            gpu, cpu = found["GPU"], found["CPU"]
            case.equal("verdict", gpu["verdict"]["status"], cpu["verdict"]["status"])
            for name in SETS:
                numbers = ([each["probability"]["after"][name]] for each in (gpu, cpu))
                case.near(f"probability of {name} rows after", *numbers, at_most=_NEAR)


def _unlearn(place: Place, name: str) -> tuple[dict[str, Any], int, float]:
    """The record, the exit code, and seconds."""
    from egup_trainer.cli.main import main as egup

    output = place.folder / f"unlearned_on_{name}"
    words = ["unlearn", "--model_name_or_path", str(place.model), "--output_dir", str(output)]
    words += [word for each in SETS for word in (f"--{each}", str(place.source(each)))]
    words += ["--report_to", "none", "--disable_tqdm", "true", *(["--use_cpu", "true"] if name == "CPU" else [])]
    words += ["--max_steps", "2"] if place.dry else []
    start = time.perf_counter()
    code = egup(words)
    seconds = time.perf_counter() - start
    return json.loads((output / "unlearning.json").read_text(encoding="utf-8")), code, seconds
