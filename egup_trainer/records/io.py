"""Reads and writes the files beside a saved model: the run record, the ledger and the private record of the run.

The ledger lists the requests to forget that a model has been through, one JSON line each. It names rows by their
fingerprint alone, and contains no path. A model that is unlearned again takes the earlier lines along. Each line holds
the digest of the line before it, so that a changed, removed or moved line is detected.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from egup_trainer.errors import DataError
from egup_trainer.files import refuse_unfinished, write_file
from egup_trainer.records.judgments import AFTER
from egup_trainer.records.schema import (
    LEDGER_NAME,
    LEDGER_SCHEMA,
    RECORD_NAME,
    RECORD_SCHEMA,
    RUN_NAME,
    Request,
    Run,
    RunRecord,
    Secrets,
)

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_PREVIOUS = "previous"
_RUN_EXPECTED = f"the file {RUN_NAME} that `egup unlearn` writes into its output folder, schema version {RECORD_SCHEMA}"


def read_record(folder: str | Path) -> RunRecord | None:
    """Reads the record of the run that produced the saved model in `folder`; None if there is no record.

    Raises:
        DataError: the file is not a record, or another version of this package wrote it.
    """
    path = Path(folder) / RECORD_NAME
    if not path.is_file():
        return None
    expected = f"the record of an unlearning run, schema version {RECORD_SCHEMA}"
    return _read(path, TypeAdapter(RunRecord), expected, "save the model again")


def recorded_options(folder: str | Path) -> Mapping[str, Any]:
    """The options in the record of the run that produced the model or checkpoint in `folder`; empty without one.

    A record that cannot be read has none either: whoever needs the record reports what is wrong with it.
    """
    try:
        record: Any = read_record(folder) or {}
        return dict(record.get("options", {}))
    except (DataError, AttributeError, TypeError, ValueError):
        return {}


def write_record(record: Mapping[str, Any], folder: str | Path) -> None:
    """Writes the record into a saved model's folder."""
    write_file(Path(folder) / RECORD_NAME, to_json(record), private=False)


def is_merged(folder: str | Path) -> bool:
    """Whether the folder holds a model that `egup unlearn` merged an adapter into."""
    record = read_record(folder)
    return record is not None and bool(record.get("is_merged"))


def read_run(path: Path) -> Run:
    """Reads the private record of a run.

    Raises:
        DataError: the file is missing or incomplete, or is not such a record.
    """
    refuse_unfinished(path.parent)
    return _read(path, TypeAdapter(Run), _RUN_EXPECTED, "name such a file")


def find_run(path: Path) -> Run | None:
    """The private record of a run. None if there is no file, or if it holds only the secrets of a run in Python.

    Raises:
        DataError: as in `read_run`.
    """
    if not path.is_file() or "sources" not in _read(path, TypeAdapter(dict[str, Any]), _RUN_EXPECTED, "restore it"):
        return None
    return read_run(path)


def write_run(run: Mapping[str, Any], folder: str | Path) -> None:
    """Writes the private record of a run into a saved model's folder."""
    write_file(Path(folder) / RUN_NAME, to_json(run))


def read_secrets(source: str | Path | None) -> list[str]:
    """The secrets that the fingerprints of a model's requests are keyed by, the last request's first.

    They are in the private record of the model's run, in the model's folder or, for a merged model, in its parent.

    Raises:
        DataError: the private record is not a complete JSON file.
    """
    if source is None or not Path(source).is_dir():
        return []
    path = next((path for path in (Path(source) / RUN_NAME, Path(source).parent / RUN_NAME) if path.is_file()), None)
    if path is None:
        return []
    document = _read(path, TypeAdapter(Secrets), "the private record of the run", "restore or delete it")
    return document.get("secrets", [])


def write_secrets(folder: str | Path, secrets: Sequence[str]) -> None:
    """Starts the private record of a run: without the secrets nobody can confirm fingerprints."""
    write_file(Path(folder) / RUN_NAME, json.dumps({"secrets": list(secrets)}) + "\n")


def read_ledger(source: str | Path | None) -> list[Request]:
    """The requests that a model has been through, in order; none if it has no ledger.

    Args:
        source: folder or hub id of the model. The ledger of a hub model is downloaded.

    Raises:
        DataError: the file is not a ledger, another version of this package wrote it, or it was changed.
    """
    if source is not None:
        refuse_unfinished(source)
    path = _ledger_of(source)
    if path is None:
        return []
    restore = "restore the file: what it says of earlier requests is stored nowhere else"
    previous, found = None, []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            entry = json.loads(line)
            link, version = entry.pop(_PREVIOUS), entry.pop("schema_version")
            request = Request(**entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            version = None
        if version != LEDGER_SCHEMA:
            raise DataError(
                got=f"line {number} of {path}, which is not a request in schema {LEDGER_SCHEMA}",
                expected="the file as this version of egup_trainer writes it",
                fix=restore,
            )
        if link != previous:
            raise DataError(
                got=f"line {number} of {path}, which does not follow from the lines before it",
                expected="each line as its run wrote it: one was changed, removed or moved",
                fix=restore,
            )
        previous = _digest(line)
        found.append(request)
    return found


def write_ledger(folder: str | Path, requests: Sequence[Request]) -> None:
    """Writes the ledger into a saved model's folder."""
    lines: list[str] = []
    for request in requests:
        head = {"schema_version": LEDGER_SCHEMA, _PREVIOUS: _digest(lines[-1].encode()) if lines else None}
        lines.append(json.dumps({**head, **asdict(request)}, allow_nan=False))
    write_file(Path(folder) / LEDGER_NAME, "\n".join(lines) + "\n", private=False)


def last_measured(requests: Sequence[Request], index: int) -> float | None:
    """The most recent probability of a request's forget rows, from the last run that measured them.

    Args:
        requests: the ledger.
        index: index of the request in the ledger.

    Example:
        >>> first = Request("2026-01-01", 3, "ab", "npo", 10, {}, {"after": 0.1})
        >>> second = Request("2026-02-01", 4, "cd", "npo", 10, {}, {"after": 0.2}, {"ab": {"after": 0.15}})
        >>> last_measured([first, second], 0), last_measured([first, second], 1)
        (0.15, 0.2)
    """
    fingerprint = requests[index].fingerprint
    later = [request.earlier[fingerprint] for request in requests[index + 1 :] if fingerprint in request.earlier]
    return (later[-1] if later else requests[index].probability).get(AFTER)


def to_json(document: Mapping[str, Any]) -> str:
    """The document as JSON text; a number that is not finite is a ValueError."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _read(path: Path, kind: TypeAdapter[_T], expected: str, fix: str) -> _T:
    try:
        return kind.validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(got=f"no readable file at {path}", expected=expected, fix="check the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] or first["type"] == "value_error":
            field = first["loc"][0] if first["loc"] else first["ctx"]["error"]
            what = f"whose {field} is missing or has the wrong type"
        else:
            what = f"which is not a {'complete JSON file' if first['type'] == 'json_invalid' else 'JSON object'}"
        raise DataError(got=f"{path}, {what}", expected=expected, fix=fix) from error


def _ledger_of(source: str | Path | None) -> Path | None:
    """Path of the ledger, which is downloaded if the model came from the hub."""
    if source is None or Path(source).is_dir():
        path = None if source is None else Path(source) / LEDGER_NAME
        return path if path is not None and path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        is_of_hub = isinstance(try_to_load_from_cache(str(source), "config.json"), str)
    except HFValidationError:
        return None
    return _download(str(source)) if is_of_hub else None


@cache
def _download(repo: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, LEDGER_NAME))
    except LocalEntryNotFoundError:
        logger.warning("Without a network, it is unknown whether %s has been through earlier requests.", repo)
    except EntryNotFoundError:
        pass  # the model has no ledger
    return None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
