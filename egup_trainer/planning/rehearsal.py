"""A few real steps in a temporary folder, of which nothing stays: for their time, and for what libraries hold."""

import copy
import gc
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from egup_trainer.components.clreg import ClregPositives
from egup_trainer.components.step_log import peak_memory_gb
from egup_trainer.data.tokenization import RowDataset, from_token_columns
from egup_trainer.egup import EGUPTrainer
from egup_trainer.errors import ConfigError
from egup_trainer.planning.machine import resident_memory
from egup_trainer.planning.plan import Job
from egup_trainer.planning.steps import Rows

_QUIET = {
    "report_to": [],
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "push_to_hub": False,
    "disable_tqdm": True,
    "load_best_model_at_end": False,
    "scan_cache_dir": None,
    "resume_from_checkpoint": None,
    "stop_at_boundary": False,
}
"""Options of a rehearsal: it writes and shows nothing."""


@dataclass(frozen=True)
class Measured:
    """What a rehearsal took.

    Args:
        step: seconds of an optimizer step, the first one left out.
        before: seconds until the first step began, for as many rows as `scanned`.
        scanned: rows that were read before the first step.
        peak_gb: most memory that the process held, 10^9 bytes.
    """

    step: float
    before: float
    scanned: int
    peak_gb: float

    def seconds(self, steps: int, rows: int) -> float:
        """Of a run of so many steps that scans so many rows."""
        return self.before * rows / max(self.scanned, 1) + self.step * steps


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.starts.append(_now())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(_now())


def measure_steps(job: Job, steps: int) -> Measured:
    """Loads the model and takes a step that warms up and `steps` that count, on some of the rows.

    Raises:
        EgupError: whatever the run itself would raise.
    """
    pairs = job.args.train_batch_size * job.args.gradient_accumulation_steps * (steps + 1)
    given = job.rows
    few: dict[str, Any] = {name: _spread(getattr(given, name), pairs) for name in ("forget", "retain", "proxy")}
    rows = replace(given, **few)
    clock = _Clock()
    began = _rehearse(job, job.model, rows, steps + 1, clock)
    scanned = sum(len(each) for each in (rows.forget, rows.retain, rows.proxy) if each is not None)
    mean = sum(clock.ends[place] - clock.ends[place - 1] for place in range(1, steps + 1)) / steps
    return Measured(mean, clock.starts[0] - began, scanned, peak_memory_gb())


def measure_libraries(job: Job) -> int:
    """Bytes that the process holds after two steps of a model of no size with the same options: Python, all libraries
    that a run imports on its way, and their own buffers. 0 on a GPU, whose memory they do not take.
    """
    if job.machine.is_gpu:
        return 0
    made_up = [{"input_ids": [place, *range(7)], "labels": [place, *range(7)]} for place in range(8)]
    rows = Rows(
        from_token_columns(made_up[:4], "rows"), from_token_columns(made_up[4:], "rows"), None, job.rows.tokenizer
    )
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    args = copy.copy(job.args)
    args.objective, args.retain_loss, args.proxy_constraint, args.per_device_train_batch_size = "npo", "nll", False, 2
    args.objective_kwargs = None
    args.clreg_positives, args.gradient_accumulation_steps = ClregPositives.FORGET, 1
    args.rmu_layer = args.feature_layer = 0
    small = Job(job.model, args, None, rows, job.machine)
    _rehearse(small, LlamaForCausalLM(config), rows, 2, _Clock())
    gc.collect()
    return resident_memory()


def _rehearse(job: Job, model: Any, rows: Rows, steps: int, clock: _Clock) -> float:
    """Trains for a few steps; when training began."""
    args = copy.copy(job.args)
    for name, value in _QUIET.items():
        kind = type(getattr(args, name))
        setattr(args, name, kind(value) if hasattr(kind, "__members__") else value)
    random = torch.get_rng_state()
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        args.output_dir, args.max_steps = str(Path(folder) / "out"), steps
        trainer = EGUPTrainer(
            model,
            args,
            rows.forget,
            rows.retain,
            rows.proxy,
            processing_class=rows.tokenizer,
            peft_config=job.peft_config,
            callbacks=[clock],
        )
        began = _now()
        trainer.train()
        del trainer
    torch.set_rng_state(random)
    if len(clock.ends) < steps:
        raise ConfigError(got=f"{len(clock.ends)} steps", expected=f"{steps}", fix="lower --measure_steps")
    return began


def _spread(rows: RowDataset | None, count: int) -> RowDataset | None:
    """At most so many rows, evenly spread."""
    if rows is None:
        return None
    return RowDataset(rows.rows[:: max(len(rows) // count, 1)][:count])


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
