"""Time and memory of one contender's run, and the runs of all of them one after another."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.speed.contenders import CONTENDERS
from benchmarks.speed.rows import SpeedRows
from benchmarks.speed.shapes import Tuning, adapter_of, make_model

_RESET_PEAK = "5"
"""What Linux takes in /proc/self/clear_refs to forget the largest resident size so far."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        shape: name of a model shape.
        tuning: what is trained.
        batch: pairs in a micro-batch.
        accumulation: micro-batches in a step.
        optim: as in `TrainingArguments`. Plain SGD leaves out what the optimizer itself takes, alike in all contenders.
    """

    shape: str
    tuning: Tuning = Tuning.FULL
    batch: int = 4
    accumulation: int = 1
    optim: str = "adamw_torch"

    @property
    def pairs(self) -> int:
        """Forget rows, and retain rows, of a step."""
        return self.batch * self.accumulation

    @property
    def name(self) -> str:
        return f"{self.shape}_{self.tuning.value}_{self.batch}x{self.accumulation}"


@dataclass(frozen=True)
class Run:
    """What a run of a contender took.

    Args:
        seconds: of each timed step.
        before: seconds until the first step was done: what a run does once.
        peak: most bytes held: on the GPU, or resident.
        libraries: bytes held before the model was made: on a CPU those of Python and its libraries.
        tokens: of a step's rows.
    """

    seconds: list[float]
    before: float
    peak: int
    libraries: int
    tokens: int


class StepClock(TrainerCallback):
    """Reads the time at the end of each step.

    Attributes:
        ends: of all steps.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Waits for the device, then takes the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Of each step but the first, which warms up; with all that happens between steps."""
        return [end - begin for begin, end in zip(self.ends, self.ends[1:], strict=False)]


def in_process_of_its_own(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, in a process that has held nothing before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(work, *arguments).result()


def run(contender: str, case: Case, rows: SpeedRows, steps: int) -> Run:
    """Trains a fresh model for a step that warms up and `steps` that count."""
    options = {
        "max_steps": steps + 1,
        "per_device_train_batch_size": case.batch,
        "gradient_accumulation_steps": case.accumulation,
        "optim": case.optim,
        "learning_rate": 1e-5,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
    }
    _settle()
    libraries = _held()
    with TemporaryDirectory() as folder:
        model = make_model(case.shape, case.tuning)
        trainer = CONTENDERS[contender](model, rows, Path(folder), options, adapter_of(case.tuning))
        clock = StepClock()
        trainer.add_callback(clock)
        _forget_peak()
        start = time.perf_counter()
        trainer.train()
    tokens = sum(len(row) for each in (rows.forget, rows.retain) for row in each.rows)
    return Run(clock.seconds, clock.ends[0] - start, _peak(), libraries, tokens)


def compare(case: Case, rows: SpeedRows, contenders: Iterable[str], rounds: int, steps: int) -> dict[str, Any]:
    """All contenders in turn, round after round.

    Returns:
        For each contender the medians over rounds of `seconds` a step, `peak_gb`, `own_gb` (without what was held
        before the model was made), `before` and `tokens_per_second`;
        each round's (`rounds`), which `ratio` reads; and the `runs` themselves.
    """
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, found in runs.items():
            found.append(run(name, case, rows, steps))
    return {name: _summary(found) for name, found in runs.items()}


def ratio(found: dict[str, Any], ours: str, theirs: str, what: str = "seconds") -> float:
    """Median over rounds of what one contender took over what another took in the same round."""
    pairs = zip(found[ours]["rounds"][what], found[theirs]["rounds"][what], strict=True)
    return statistics.median(one / other for one, other in pairs)


def _summary(runs: list[Run]) -> dict[str, Any]:
    rounds = {
        "seconds": [statistics.median(each.seconds) for each in runs],
        "peak_gb": [each.peak / 1e9 for each in runs],
        "own_gb": [(each.peak - each.libraries) / 1e9 for each in runs],
        "before": [each.before for each in runs],
    }
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    return {
        **medians,
        "tokens_per_second": runs[0].tokens / medians["seconds"],
        "rounds": rounds,
        "runs": [asdict(each) for each in runs],
    }


def _settle() -> None:
    """Gives back what the run before held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def _peak() -> int:
    """Most bytes held since `_forget_peak`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status("VmHWM:")


def _held() -> int:
    """Bytes held now."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else _status("VmRSS:")


def _status(name: str) -> int:
    """Bytes that Linux tells of this process by that name."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return int(line.split()[1]) * 1024
