"""Results of benchmarks: tables in JSON Lines files under benchmarks/results, one line per run."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from egup_trainer.files import write_file

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Line:
    """One run's line in a table, whether it is there yet or not.

    Args:
        table: the file.
        name: of the run; each name occurs once in a table.

    Example:
        >>> Line(RESULTS / "design_choices.jsonl", "seed0").exists()
        True
    """

    table: Path
    name: str

    def exists(self) -> bool:
        """Whether the run has a line."""
        return self.name in read_table(self.table)

    def read(self) -> dict[str, Any]:
        """The line, without its name.

        Raises:
            KeyError: there is none.
        """
        return read_table(self.table)[self.name]

    def write(self, results: dict[str, Any]) -> None:
        """Adds the line, or replaces it; other processes may write other lines of the table at the same time."""
        with _alone_with(self.table):
            lines = {**read_table(self.table), self.name: results}
            text = "".join(json.dumps({"name": name, **line}, allow_nan=False) + "\n" for name, line in lines.items())
            write_file(self.table, text, private=False)


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """All lines of a table by name, in their order; empty if there is no file."""
    if not path.is_file():
        return {}
    facts = path.stat()
    return dict(_parse(path, facts.st_mtime_ns, facts.st_size))


@cache
def _parse(path: Path, changed: int, size: int) -> dict[str, dict[str, Any]]:
    """The lines of a file as it was then: a summary reads the same table hundreds of times."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)
    return {line.pop("name"): line for line in lines}


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    from filelock import FileLock

    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with FileLock(Path(gettempdir()) / f"egup_table_{name}.lock"):
        yield
