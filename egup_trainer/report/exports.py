"""A comparison's numbers as JSON and CSV."""

import csv
import io
import json
from collections.abc import Sequence

from egup_trainer.report.models import Comparison
from egup_trainer.report.remarks import remarks
from egup_trainer.report.summary import NO_GUARANTEE, sentences
from egup_trainer.report.table import Cell, Part

SCHEMA_VERSION = 1
_KIND = "egup_trainer comparison"
_FIELDS = ("value", "low", "high", "num_samples", "num_skipped", "reason", "distance_to_retrained", "best")


def to_json(comparison: Comparison, parts: Sequence[Part], title: str) -> str:
    """The table as JSON: metrics by name, cells by model; with the models, their rows and runs. No text of a row."""
    document = {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "note": NO_GUARANTEE,
        "summary": sentences(comparison),
        "remarks": remarks(comparison),
        "models": [
            {
                "name": model.name,
                "role": model.role.value,
                "suite": model.evaluation.suite,
                "split": model.evaluation.split,
                "sets": {
                    name: {"num_rows": facts.num_rows, "cut": facts.cut, "in_windows": facts.in_windows}
                    for name, facts in model.evaluation.sets.items()
                },
                "run": model.evaluation.run,
            }
            for model in comparison.models
        ],
        "metrics": {
            row.metric: {name: _record(cell) for name, cell in row.cells.items()} for part in parts for row in part.rows
        },
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(parts: Sequence[Part]) -> str:
    """The table as CSV: a line a model and metric; what does not exist is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ("model", "metric", *_FIELDS), lineterminator="\n")
    writer.writeheader()
    for row in (row for part in parts for row in part.rows):
        writer.writerows({"model": name, "metric": row.metric, **_record(cell)} for name, cell in row.cells.items())
    return text.getvalue()


def _record(cell: Cell) -> dict[str, float | int | str | bool | None]:
    values = (cell.value, *(cell.interval or (None, None)), cell.num_samples, cell.num_skipped, cell.reason)
    return dict(zip(_FIELDS, (*values, cell.distance, cell.best), strict=True))
