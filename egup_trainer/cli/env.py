"""`egup env`: versions and machine, to paste into a bug report. It names no path, user or host."""

import os

from egup_trainer.cli.command import Command
from egup_trainer.cli.flags import Arguments

_OF_LAUNCHERS = ("WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_MIXED_PRECISION")
"""Variables that launchers set, which change how a run is distributed."""


def run(args: Arguments) -> None:
    """Prints one fact per line."""
    import psutil
    import torch

    from egup_trainer.records.facts import run_facts

    count = torch.cuda.device_count()
    gpus = [torch.cuda.get_device_properties(index) for index in range(count)]
    facts = run_facts()
    lines = {
        **facts["versions"],
        **facts["machine"],
        "CUDA of torch": torch.version.cuda or "none",
        "GPUs": ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus) or "none",
        "bfloat16 on the GPU": torch.cuda.is_bf16_supported(including_emulation=False) if count else "no GPU",
        "memory GB": round(psutil.virtual_memory().total / 1e9, 1),
        **{name: os.environ[name] for name in _OF_LAUNCHERS if name in os.environ},
    }
    for name, value in lines.items():
        print(f"{name}: {value}")


COMMAND = Command(
    "env", "print versions and machine, for a bug report", run, options=lambda: [Arguments], uses_models=False
)
