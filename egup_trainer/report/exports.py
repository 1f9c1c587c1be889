"""A comparison's numbers as JSON and CSV."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from egup_trainer.report.models import Comparison
from egup_trainer.report.remarks import remarks
from egup_trainer.report.summary import NO_GUARANTEE, sentences, single_rows
from egup_trainer.report.table import Cell, Part

SCHEMA_VERSION = 1
_KIND = "egup_trainer comparison"
# The last four are full-width forms of the first; a spreadsheet may begin a cell after each of these separators.
_FORMULA = re.compile("((?:^|[;\t\r\n])\\s*)(?=[=+@\uff1d\uff0b\uff0d\uff20-])")
_FIELDS = ("value", "low", "high", "num_samples", "num_skipped", "reason", "distance_to_retrained", "best")


def to_json(comparison: Comparison, parts: Sequence[Part], title: str) -> str:
    """The table as JSON: metrics by name, cells by model; with the models, their rows and runs. No text of a row."""
    document = {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "note": NO_GUARANTEE,
        "summary": sentences(comparison),
        "forget_rows": {name: asdict(rows) for name, rows in single_rows(comparison).items()},
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
                "run": model.run,
            }
            for model in comparison.models
        ],
        "metrics": {
            row.metric: {name: _record(cell) for name, cell in row.cells.items()} for part in parts for row in part.rows
        },
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(parts: Sequence[Part]) -> str:
    """The table as CSV: a line a model and metric; what does not exist is empty.

    A text that a spreadsheet would take for a formula has a ' before it.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, ("model", "metric", *_FIELDS), lineterminator="\n")
    writer.writeheader()
    for row in (row for part in parts for row in part.rows):
        lines = ({"model": name, "metric": row.metric, **_record(cell)} for name, cell in row.cells.items())
        writer.writerows({column: _no_formula(value) for column, value in line.items()} for line in lines)
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    return _FORMULA.sub(r"\1'", value) if isinstance(value, str) else value


def _record(cell: Cell) -> dict[str, float | int | str | bool | None]:
    values = (cell.value, *(cell.interval or (None, None)), cell.num_samples, cell.num_skipped, cell.reason)
    return dict(zip(_FIELDS, (*values, cell.distance, cell.best), strict=True))
