"""Results as JSON documents: written with a kind and a version, read back with every type checked, and compared."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter

from egup_trainer.errors import DataError

STRICT = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
"""How pydantic reads the dataclasses of results."""
_Results = TypeVar("_Results")


def to_json(results: Mapping[str, Any], kind: str, version: int) -> str:
    """The fields of a dataclass of results as JSON text, after its kind and version."""
    document = {"kind": kind, "schema_version": version, **_finite(results)}
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: numbers that are not finite, from a run that went wrong, are written as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def read_results(
    path: Path, results: type[_Results], kind: str, version: int, command: str, required: Collection[str]
) -> tuple[_Results, dict[str, Any]]:
    """Reads what `to_json` wrote.

    Args:
        kind, version: the kind and version that the file must have.
        command: the command of `egup` that writes such files.
        required: keys that the file must have.

    Returns:
        The results, and what the file holds besides.

    Raises:
        DataError: the file is missing or incomplete, or is of another kind, version or format.
    """
    expected, again = f"results as `egup {command}` writes them", f"{command} the model again"
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise DataError(got=f"no readable file at {path}", expected=expected, fix="check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(got=f"{path}, which is not a complete JSON file", expected=expected, fix=again) from error
    if not isinstance(document, dict) or document.pop("kind", None) != kind:
        raise DataError(got=f"{path}, which holds something else", expected=expected, fix="name such a file")
    found = document.pop("schema_version", None)
    if found != version:
        fix = f"{again} with this version of egup_trainer"
        raise DataError(got=f"{path} of schema version {found}", expected=f"version {version}", fix=fix)
    missing = [name for name in required if name not in document]
    names = set(results.__dataclass_fields__)  # type: ignore[attr-defined]
    more = {name: document.pop(name) for name in document.keys() - names}
    try:
        if missing:
            raise ValueError(missing[0])
        return TypeAdapter(results).validate_json(json.dumps(document)), more
    except ValueError as error:
        field = missing[0] if missing else (*error.errors()[0]["loc"], "contents")[0]  # type: ignore[attr-defined]
        raise DataError(
            got=f"{path}, whose {field} is missing or does not fit the format",
            expected=f"{expected}, version {version}",
            fix=again,
        ) from error


def refuse_differences(ours: tuple[str, dict[str, str]], theirs: tuple[str, dict[str, str]], fix: str) -> None:
    """Raises `DataError` if facts of two results differ, each given with a name for it."""
    (name, facts), (other_name, others) = ours, theirs
    for fact in dict.fromkeys([*others, *facts]):
        if facts.get(fact) != others.get(fact):
            raise DataError(
                got=f"{other_name} with {fact} {others.get(fact, 'missing')}",
                expected=f"{fact} {facts.get(fact, 'missing')}, that of {name}",
                fix=fix,
            )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")
