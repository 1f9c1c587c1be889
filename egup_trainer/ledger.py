"""The ledger of a model: which requests to forget it has been through, one JSON line each, beside the weights.

It names rows by their fingerprint alone, and no path. A model that is unlearned again takes the earlier lines along.
Each line holds the digest of the line before it, so that a line that was changed, removed or moved is found.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from egup_trainer.errors import DataError
from egup_trainer.files import refuse_unfinished, write_file
from egup_trainer.outcome import AFTER
from egup_trainer.typed import check_types

logger = logging.getLogger(__name__)

LEDGER_NAME = "egup_ledger.jsonl"
LEDGER_SCHEMA = 2
RUN_NAME = "_run.json"
"""The whole record of a run. It is readable by the user alone, since it names paths and holds the secrets that
fingerprints are keyed by; it is left out of what is pushed to a hub, as all `_*` is."""
_PREVIOUS = "previous"


@dataclass(frozen=True)
class Request:
    """A request to forget, and how it was met.

    Args:
        date: of the run, UTC, ISO 8601.
        rows: number of forget rows.
        fingerprint: of the forget rows, keyed by the run's secret; see `egup_trainer.trainer.record.fingerprint`.
        objective: the forget objective.
        steps: optimizer steps.
        versions: of the packages.
        probability: mean probability of the forget rows' answers, by when it was measured ("before", "after").
        earlier: the same of the rows of earlier requests, by their fingerprint.
    """

    date: str
    rows: int
    fingerprint: str
    objective: str
    steps: int
    versions: dict[str, str]
    probability: dict[str, float] = field(default_factory=dict)
    earlier: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Request":
        """The request that a run's record tells of."""
        forget = record["rows"]["forget"]
        copied = {name: record[name] for name in ("date", "objective", "steps", "versions")}
        return cls(rows=forget["rows"], fingerprint=forget["fingerprint"], **copied)


def read_ledger(source: str | Path | None) -> list[Request]:
    """The requests that a model has been through, the first first; none if it has no ledger.

    Args:
        source: folder or hub id of the model. Of a hub model the ledger is fetched.

    Raises:
        DataError: the file holds something else, is of another version of this package, or was changed.
    """
    if source is not None:
        refuse_unfinished(source)
    path = _ledger_of(source)
    if path is None:
        return []
    restore = "restore it; what it tells of earlier requests can be had from nowhere else"
    previous = None
    names = {option.name for option in fields(Request)}
    found = []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            entry = json.loads(line)
            link = entry.pop(_PREVIOUS)
            if entry.pop("schema_version") != LEDGER_SCHEMA or entry.keys() != names:
                raise ValueError
            found.append(Request(**entry))
            check_types(found[-1])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                got=f"line {number} of {path}, which is no request in schema {LEDGER_SCHEMA}",
                expected="the file as this version of the trainer writes it",
                fix=restore,
            ) from None
        if link != previous:
            raise DataError(
                got=f"line {number} of {path}, which does not follow from the lines before it",
                expected="each line as its run wrote it: one was changed, removed or moved",
                fix=restore,
            )
        previous = _digest(line)
    return found


def _ledger_of(source: str | Path | None) -> Path | None:
    """The file, fetched from the hub if the model came from there."""
    if source is None or Path(source).is_dir():
        path = None if source is None else Path(source) / LEDGER_NAME
        return path if path is not None and path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        is_of_hub = isinstance(try_to_load_from_cache(str(source), "config.json"), str)
    except HFValidationError:
        return None
    return _fetch(str(source)) if is_of_hub else None


@cache
def _fetch(repo: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, LEDGER_NAME))
    except LocalEntryNotFoundError:
        logger.warning("No network: whether %s has been through requests to forget is not known.", repo)
    except EntryNotFoundError:
        pass  # it has none
    return None


def write_ledger(folder: str | Path, requests: Sequence[Request]) -> None:
    """Writes the ledger into a saved model's folder; the file appears whole or not at all."""
    lines: list[str] = []
    for request in requests:
        head = {"schema_version": LEDGER_SCHEMA, _PREVIOUS: _digest(lines[-1].encode()) if lines else None}
        lines.append(json.dumps({**head, **asdict(request)}, allow_nan=False))
    write_file(Path(folder) / LEDGER_NAME, "\n".join(lines) + "\n", private=False)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def read_secrets(source: str | Path | None) -> list[str]:
    """The secrets that the fingerprints of a model's requests are keyed by, the last request's first.

    They stand in the record of the model's run, in the model's folder or, for a merged model, in the folder above it.

    Raises:
        DataError: the record is not a complete JSON file.
    """
    places = [] if source is None else [Path(source) / RUN_NAME, Path(source).parent / RUN_NAME]
    path = next((place for place in places if place.is_file()), None)
    if path is None or not Path(str(source)).is_dir():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8")).get("secrets", []))
    except (OSError, ValueError, AttributeError, TypeError):
        raise DataError(
            got=f"{path}, which is no whole JSON file", expected="the record of the run", fix="restore or delete it"
        ) from None


def write_secrets(folder: str | Path, secrets: Sequence[str]) -> None:
    """Starts the record of a run in a saved model's folder: without the secrets nobody can confirm fingerprints."""
    write_file(Path(folder) / RUN_NAME, json.dumps({"secrets": list(secrets)}) + "\n")


def last_measured(requests: Sequence[Request], place: int) -> float | None:
    """Probability of a request's forget rows when it was measured last: by the last run that was given them.

    Args:
        place: of the request in the ledger, from 0.

    Example:
        >>> first = Request("2026-01-01", 3, "ab", "npo", 10, {}, {"after": 0.1})
        >>> second = Request("2026-02-01", 4, "cd", "npo", 10, {}, {"after": 0.2}, {"ab": {"after": 0.15}})
        >>> last_measured([first, second], 0), last_measured([first, second], 1)
        (0.15, 0.2)
    """
    fingerprint = requests[place].fingerprint
    later = [request.earlier[fingerprint] for request in requests[place + 1 :] if fingerprint in request.earlier]
    return (later[-1] if later else requests[place].probability).get(AFTER)
