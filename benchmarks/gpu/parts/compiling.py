"""`torch_compile`: how many graphs, the same loss, and what it saves, on rows of many lengths."""

import logging
import os
import random
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.gpu.cases import Findings, SkipCase
from benchmarks.gpu.place import Place
from benchmarks.gpu.training import EXACT, ROUNDED, compare, train
from egup_trainer.data.tokenization import from_token_columns
from egup_trainer.demo.twins import ModelSize, make_model
from egup_trainer.modeling.loading import load_tokenizer

UPDATES = 12
"""Of each run; the first half may compile."""
_DYNAMIC = "ACCELERATE_DYNAMO_USE_DYNAMIC"
"""By this variable accelerate tells `torch.compile` that all shapes may change."""


def compiling(place: Place, findings: Findings) -> None:
    """Without a word on shapes, and with `dynamic=True`, each against the model as it is."""
    options: dict[str, Any] = {"rows": _rows(place), "updates": UPDATES, "bf16": not place.dry}
    plain = train(place, _model(place), **options)
    for name, dynamic in (("compiled", None), ("compiled with dynamic=True", "true")):
        with findings.case(name) as case:
            if place.dry and dynamic:
                raise SkipCase("a dry run compiles once")
            torch.compiler.reset()
            torch._dynamo.utils.counters.clear()
            if dynamic:
                os.environ[_DYNAMIC] = dynamic
            # On a CPU the compiler itself is left out, which takes minutes: the graphs are the same.
            backend = {"torch_compile_backend": "eager"} if place.dry else {}
            graphs = _Graphs()
            with _Limits() as limits:
                found = train(place, _model(place), torch_compile=True, watch=[graphs], **backend, **options)
            os.environ.pop(_DYNAMIC, None)
            compare(case, found, plain, EXACT if place.dry else ROUNDED)
            case.equal("times that the limit of recompilations was hit", limits.hits, 0)
            case.equal("graphs of the second half of the steps", graphs.late, 0)
            case.measured |= {"graphs": graphs.counts[-1], "time_over_plain": found.seconds / plain.seconds}


class _Graphs(TrainerCallback):
    """Counts the graphs that were compiled until the end of each step."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    @property
    def late(self) -> int:
        """How many were compiled in the second half of the steps."""
        return self.counts[-1] - self.counts[len(self.counts) // 2]


class _Limits(logging.Handler):
    """Counts the warnings that a function was compiled too often. PyTorch stops compiling it then."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.hits = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.hits += "_limit" in record.getMessage()

    def __enter__(self) -> "_Limits":
        logging.getLogger("torch._dynamo").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("torch._dynamo").removeHandler(self)


def _model(place: Place) -> Any:
    """Random weights of a size where a GPU has something to do."""
    size = ModelSize(64, 1, 1) if place.dry else ModelSize(1024, 8, 16)
    return make_model(load_tokenizer(str(place.model)), size, seed=0)


def _rows(place: Place) -> dict[str, Any]:
    """Rows of random tokens and many lengths; the second half of each is the answer."""
    draw, longest = random.Random(0), 24 if place.dry else 256
    sets = {}
    for name, count in (("forget", 40), ("retain", 40), ("proxy", 10)):
        records = []
        for _ in range(count):
            ids = [draw.randrange(5, 300) for _ in range(draw.randint(longest // 4, longest))]
            half = len(ids) // 2
            records.append({"input_ids": ids, "labels": [-100] * half + ids[half:]})
        sets[f"{name}_dataset"] = from_token_columns(records, name)
    return sets
