"""`egup env`: versions and machine, to paste into a bug report. It names no path, user or host."""

import os
from typing import Any

from egup_trainer.cli.common import OneLineParser


def main(argv: list[str]) -> None:
    """Prints a fact a line."""
    OneLineParser(prog="egup env", description="Prints versions and machine, for a bug report.").parse_args(argv)
    from egup_trainer.records.facts import run_facts

    facts = run_facts()
    for name, value in {**facts["versions"], **facts["machine"], **_of_torch(), **_of_launch()}.items():
        print(f"{name}: {value}")


def _of_torch() -> dict[str, Any]:
    import torch

    count = torch.cuda.device_count()
    gpus = [torch.cuda.get_device_properties(place) for place in range(count)]
    return {
        "CUDA of torch": torch.version.cuda or "none",
        "GPUs": ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus) or "none",
        "bfloat16 on the GPU": torch.cuda.is_bf16_supported(including_emulation=False) if count else "no GPU",
        "memory GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }


def _of_launch() -> dict[str, Any]:
    """What launchers have set, which changes how a run is cut."""
    names = ("WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_MIXED_PRECISION")
    return {name: os.environ[name] for name in names if name in os.environ}
