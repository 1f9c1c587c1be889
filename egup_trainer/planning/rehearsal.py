"""A few real steps in a temporary folder, to measure their time and the memory that libraries take."""

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
from egup_trainer.components.expected_outputs import ExpectedOutputOptions
from egup_trainer.components.step_log import peak_memory_gb
from egup_trainer.data.tokenization import RowDataset, from_token_columns
from egup_trainer.egup import EGUPTrainer
from egup_trainer.errors import ConfigError
from egup_trainer.losses.npo import NPOOptions
from egup_trainer.planning.job import Job, resident_memory
from egup_trainer.preparation import RowSets

_QUIET: dict[str, Any] = {
    "report_to": [],
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "logging_strategy": "no",
    "push_to_hub": False,
    "disable_tqdm": True,
    "load_best_model_at_end": False,
    "scan_cache_dir": None,
    "resume_from_checkpoint": None,
    "stop_at_boundary": False,
    "auto": False,
    "verdict": False,
}
"""Options with which a rehearsal writes and shows nothing."""

_SMALL: dict[str, Any] = {
    "objective": "npo",
    "objective_kwargs": None,
    "npo_beta": NPOOptions.npo_beta,  # auto would need proxies
    "retain_loss": "nll",
    "proxy_constraint": False,
    "proxy_model": None,
    "expected_top_k": ExpectedOutputOptions.expected_top_k,
    "clreg_positives": ClregPositives.FORGET,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "trainable_params_regex": None,
    "self_samples": 0,
    "rmu_layer": 0,
    "feature_layer": 0,
}
"""Options for a model of almost no size."""


@dataclass(frozen=True)
class Measured:
    """What a rehearsal took.

    Args:
        step: seconds per optimizer step, without the first one.
        before: seconds until the first step, for `scanned` rows, without `loading`.
        scanned: number of rows that were read before the first step.
        peak_gb: most memory that the process held, 10^9 bytes.
        loading: seconds to load a proxy model.
    """

    step: float
    before: float
    scanned: int
    peak_gb: float
    loading: float = 0.0

    def seconds(self, steps: int, rows: int) -> float:
        """The time of a run of that many steps that scans that many rows."""
        return self.loading + self.before * rows / max(self.scanned, 1) + self.step * steps


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.began = _now()
        self.starts: list[float] = []
        self.ends: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.starts.append(_now())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(_now())


class _Rehearsal(EGUPTrainer):
    """Notes how long it takes to load another model."""

    loading = 0.0

    def load_other(self, name: str) -> Any:
        began = _now()
        model = super().load_other(name)
        self.loading += _now() - began
        return model


def measure_steps(job: Job, steps: int) -> Measured:
    """Loads the model and runs `steps` steps on some of the rows, after one that warms up.

    Raises:
        EgupError: as the run itself would.
    """
    pairs = job.args.train_batch_size * job.args.gradient_accumulation_steps * (steps + 1)
    few: dict[str, Any] = {
        name: RowDataset(each.rows[:: max(len(each) // pairs, 1)][:pairs])  # evenly spaced
        for name, each in vars(job.rows).items()
        if each is not None
    }
    rows = RowSets(**few)
    clock, loading = _rehearse(replace(job, rows=rows), job.model, steps + 1)
    seconds = (clock.ends[steps] - clock.ends[0]) / steps
    scanned = sum(len(each) for each in vars(rows).values() if each is not None)
    return Measured(seconds, clock.starts[0] - clock.began - loading, scanned, peak_memory_gb(), loading)


def measure_libraries(job: Job) -> int:
    """Bytes that the process holds after two steps of a model of almost no size with the same options.

    These are Python, all libraries that a run imports, and their own buffers. On a GPU it is 0, since they take none of
    its memory.
    """
    if job.machine.is_gpu:
        return 0
    records = [{"input_ids": [row, *range(7)], "labels": [row, *range(7)]} for row in range(8)]
    rows = RowSets(from_token_columns(records[:4], "rows"), from_token_columns(records[4:], "rows"))
    args = copy.copy(job.args)
    vars(args).update(_SMALL)
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    _rehearse(replace(job, args=args, peft_config=None, rows=rows), LlamaForCausalLM(config), 2)
    gc.collect()
    return resident_memory()


def _rehearse(job: Job, model: Any, steps: int) -> tuple[_Clock, float]:
    """Trains for a few steps; when they were taken, and how long it took to load another model."""
    args = copy.copy(job.args)
    args.forget_sharpness = args.sharpness  # a run that chooses nothing has no strength that it would follow from
    for name, value in _QUIET.items():
        kind = type(getattr(args, name))
        setattr(args, name, kind(value) if hasattr(kind, "__members__") else value)
    state = torch.get_rng_state()
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        args.output_dir, args.max_steps = str(Path(folder) / "out"), steps
        trainer = _Rehearsal(
            model,
            args,
            job.rows.forget,
            job.rows.retain,
            job.rows.proxy,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
        clock = _Clock()
        trainer.add_callback(clock)
        trainer.train()
    torch.set_rng_state(state)
    if len(clock.ends) < steps:
        raise ConfigError(got=f"{len(clock.ends)} steps", expected=f"{steps}", fix="lower --measure_steps")
    return clock, trainer.loading


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
