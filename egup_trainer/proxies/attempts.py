"""The attempts so far, on disk: a run that was cut short goes on after its last whole attempt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egup_trainer.data.layouts import to_row
from egup_trainer.data.schema import Row
from egup_trainer.errors import StateError
from egup_trainer.files import append_to_file, one_line_write_errors, write_file
from egup_trainer.proxies.filters import Rejection
from egup_trainer.proxies.judge import Verdict


def attempts_path(output: Path) -> Path:
    """Where the attempts of `output` stand: `proxies.attempts.jsonl` beside `proxies.jsonl`."""
    return output.with_suffix(".attempts.jsonl")


@dataclass
class AttemptLog:
    """A file of JSON lines: the run's digest first, then one line an attempt. Rejected texts are not in it.

    Args:
        path: the file.
        digest: of settings, rows and weights.
        facts: what the head line says besides.
        size: of the file, in bytes.
        verdicts: on the attempts that the file held.
    """

    path: Path
    digest: str
    facts: dict[str, Any]
    size: int
    verdicts: list[Verdict] = field(default_factory=list)

    @classmethod
    def start(cls, path: Path, digest: str, facts: dict[str, Any]) -> "AttemptLog":
        """A new file, in the place of any other."""
        head = _line({"digest": digest, **facts}).encode("utf-8")
        write_file(path, head)
        return cls(path, digest, facts, len(head))

    @classmethod
    def read(cls, path: Path) -> "AttemptLog":
        """The file's attempts; one that was cut short on its way to the disk is dropped from it.

        Raises:
            StateError: the file holds something else.
        """
        found = path.read_bytes()
        whole = found[: found.rfind(b"\n") + 1]
        try:
            head, *lines = (json.loads(line) for line in whole.decode("utf-8").split("\n")[:-1])
            log = cls(path, head.pop("digest"), head, len(whole), [_verdict(line) for line in lines])
            if [verdict.attempt for verdict in log.verdicts] != list(range(len(lines))):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                got=f"{path}, which holds no attempts", expected="a file that `egup proxy` wrote", fix="delete it"
            ) from error
        if whole != found:
            write_file(path, whole)
        return log

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Takes up verdicts, on disk at once.

        Raises:
            StateError: the file cannot be written, or another run has written to it.
        """
        with one_line_write_errors(self.path):
            size = self.path.stat().st_size
        if size != self.size:
            raise StateError(
                got=f"{self.path}, to which another run has written meanwhile",
                expected="one run at a time",
                fix="let that one end, or choose another --output",
            )
        self.size = append_to_file(self.path, "".join(_line(_record(verdict)) for verdict in verdicts))
        self.verdicts += verdicts


def record_of(row: Row) -> dict[str, Any]:
    """The row in a layout that `load_rows` reads."""
    if not row.prompt:
        return {"text": row.answer}
    if len(row.prompt) == 1:
        return {"question": row.prompt[0].content, "answer": row.answer}
    turns = [{"role": message.role, "content": message.content} for message in row.prompt]
    return {"messages": [*turns, {"role": "assistant", "content": row.answer}]}


def _record(verdict: Verdict) -> dict[str, Any]:
    if verdict.row is None:
        return {"attempt": verdict.attempt, "rejected": verdict.rejection.name.lower()}  # type: ignore[union-attr]
    return {"attempt": verdict.attempt, "row": record_of(verdict.row), "nll": verdict.nll}


def _verdict(record: dict[str, Any]) -> Verdict:
    number = record["attempt"]
    if "rejected" in record:
        return Verdict(number, Rejection[record["rejected"].upper()])
    return Verdict(number, None, to_row(record["row"], "the attempts", number), record["nll"])


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
