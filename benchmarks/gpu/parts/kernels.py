"""Fused kernels of other packages: Liger in a run, and cut-cross-entropy beside this package's log-probabilities."""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cases import Findings, SkipCase
from benchmarks.gpu.place import Place
from benchmarks.gpu.training import EXACT, compare, on_the_cpu, train
from egup_trainer.modeling.memory.answer_logps import LogitTransform, answer_logps

TOKENS, WIDTH, VOCABULARY = 4096, 2048, 128_256
"""Answer tokens of a step, and the width and vocabulary of Llama 3.2 1B."""
_REPEATS = 5
_BFLOAT16 = 2**-8


def kernels(place: Place, findings: Findings) -> None:
    """Both, where they are installed."""
    with findings.case("Liger kernels") as case:
        _require(place, "liger_kernel", "liger-kernel")
        compare(case, train(place, use_liger_kernel=True), on_the_cpu(place), EXACT)
    with findings.case("cut-cross-entropy") as case:
        _require(place, "cut_cross_entropy", "cut-cross-entropy")
        from cut_cross_entropy import linear_cross_entropy

        def theirs(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
            return -linear_cross_entropy(states, weight, targets, reduction="none")

        ours, others = _cost(_ours), _cost(theirs)
        case.near("log-probabilities", others["logps"], ours["logps"], 4 * _BFLOAT16, relative=True)
        for name in ("milliseconds", "peak_gb"):
            case.measured |= {name: others[name], f"{name}_ours": ours[name]}


def _require(place: Place, module: str, package: str) -> None:
    if place.dry:
        raise SkipCase("kernels in Triton need a GPU")
    if find_spec(module) is None:
        raise SkipCase(f"{package} is not installed")


def _ours(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return answer_logps(states @ weight.T, targets, LogitTransform())


def _cost(logps_of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> dict[str, Any]:
    """Milliseconds and memory of a forward and a backward pass, and some of the log-probabilities."""
    draw = torch.Generator("cuda").manual_seed(0)
    states = torch.randn(TOKENS, WIDTH, generator=draw, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw, device="cuda", dtype=torch.bfloat16) * WIDTH**-0.5
    weight.requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=draw, device="cuda")
    times = []
    for _ in range(_REPEATS + 1):  # the first one compiles
        states.grad = weight.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, start = torch.cuda.memory_allocated(), time.perf_counter()
        logps = logps_of(states, weight, targets)
        logps.float().mean().backward()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9
    some = logps.detach()[:: TOKENS // 8].float().tolist()
    return {"milliseconds": statistics.median(times[1:]), "peak_gb": peak, "logps": some}
