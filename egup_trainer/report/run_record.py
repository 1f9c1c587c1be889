"""Results as JSON: one row a model, and the facts of the run that made them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egup_trainer.files import write_file

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


def results_document(rows: list[ResultRow], run: dict[str, Any]) -> dict[str, Any]:
    """Results as plain values for JSON."""
    return {"schema_version": SCHEMA_VERSION, "rows": [asdict(row) for row in rows], "run": run}


def write_results(path: Path, rows: list[ResultRow], run: dict[str, Any]) -> None:
    """Writes results; the file appears whole or not at all."""
    write_file(path, json.dumps(results_document(rows, run), indent=2, allow_nan=False) + "\n", private=False)
