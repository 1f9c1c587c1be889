"""Results as JSON: one row a model, and the facts of the run that made them."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egup_trainer.files import write_file
from egup_trainer.versions import package_versions

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ResultRow:
    """Numbers of one model.

    Args:
        name: of the model or method ("before", "retrained", ...).
        metrics: values by name; probability = mean over rows of exp(-mean token negative log-likelihood).
    """

    name: str
    metrics: dict[str, float | None]


def run_facts(**facts: Any) -> dict[str, Any]:
    """What is needed to judge or repeat a run: versions, machine, and the given facts."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    machine = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
    return {"versions": package_versions(), "machine": machine, **facts}


def results_document(rows: list[ResultRow], run: dict[str, Any]) -> dict[str, Any]:
    """Results as plain values for JSON."""
    return {"schema_version": SCHEMA_VERSION, "rows": [asdict(row) for row in rows], "run": run}


def write_results(path: Path, rows: list[ResultRow], run: dict[str, Any]) -> None:
    """Writes results; the file appears whole or not at all."""
    write_file(path, json.dumps(results_document(rows, run), indent=2, allow_nan=False) + "\n", private=False)
