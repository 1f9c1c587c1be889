"""The results of an audit: what each attack found, in one model and in those it is compared with. Kept as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from egup_trainer.audit.options import Attack
from egup_trainer.errors import DataError
from egup_trainer.evaluation.evaluation import (
    SetFacts,
    finite_json,
    metric_of,
    read_document,
    refuse_differences,
)
from egup_trainer.evaluation.metric import Metric
from egup_trainer.files import write_file
from egup_trainer.typed import check_types

SCHEMA_VERSION = 1
_KIND = "egup_trainer audit"

Curve = list[tuple[int, float]]
"""Steps, and the probability after each."""


@dataclass(frozen=True)
class Finding:
    """What an attack found in one model.

    Args:
        metrics: by name.
        curves: probability by step, by name; of relearning alone.
        reason: why the attack was not run; None if it was.
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Audit:
    """One model under attack, beside the models that it is compared with. No text of a row is in it.

    Args:
        name: of the model, for tables.
        sets: facts of the row sets, by name.
        settings: what numbers depend on; the same for audits that are compared.
        findings: by attack, in the order of `Attack`.
        run: model, versions, command, machine, seconds.
        retrained: the same of the model that never saw the forget rows: the yardstick.
        before: the same of the model before unlearning.
    """

    name: str
    sets: dict[str, SetFacts]
    settings: dict[str, Any]
    findings: dict[Attack, Finding]
    run: dict[str, Any] = field(default_factory=dict)
    retrained: "Audit | None" = None
    before: "Audit | None" = None

    def value(self, attack: Attack | str, metric: str) -> float | None:
        """Value of a `metric` of an `attack`, or None where that was not run or could not tell.

        Example:
            >>> Audit("mine", {}, {}, {}).value("sampling", "best_rouge")
        """
        found = self.findings.get(Attack(attack), Finding()).metrics.get(metric)
        return None if found is None else found.value

    def alone(self) -> "Audit":
        """Without the models beside it."""
        return replace(self, retrained=None, before=None)

    def to_json(self) -> str:
        """All of it as JSON, with its kind and version."""
        head = {"kind": _KIND, "schema_version": SCHEMA_VERSION}
        return json.dumps({**head, **_record(self)}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def write(self, path: str | Path) -> None:
        """Writes JSON to `path`; the file appears whole or not at all, and its user alone can read it."""
        write_file(path, self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> "Audit":
        """Reads an audit back from `path`.

        Raises:
            DataError: the file is missing, cut short, of another kind or another version.
        """
        document = read_document(Path(path), _KIND, SCHEMA_VERSION, "audit")
        try:
            audit = _audit(document)
            check_types(audit)
            return audit
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(
                got=f"{path}, whose contents do not fit the format ({type(error).__name__})",
                expected=f"results as `egup audit` writes them, version {SCHEMA_VERSION}",
                fix="audit the model again",
            ) from error


def check_same_audit(audit: Audit, other: Audit, other_name: str) -> None:
    """Raises `DataError` if two audits differ in rows or settings.

    Args:
        audit: of the model in question.
        other: what it is compared with.
        other_name: how the user gave it.
    """
    refuse_differences(
        (audit.name, _identity(audit)),
        (other_name, _identity(other)),
        fix="audit both models with the same rows and options",
    )


def _identity(audit: Audit) -> dict[str, str]:
    sets = {f"{name} rows of fingerprint": facts.fingerprint for name, facts in audit.sets.items()}
    return {**sets, **{name: json.dumps(value) for name, value in audit.settings.items()}}


def _record(audit: Audit) -> dict[str, Any]:
    findings = {
        attack.value: {
            "metrics": {name: asdict(metric) for name, metric in finding.metrics.items()},
            "curves": finding.curves,
            "reason": finding.reason,
        }
        for attack, finding in audit.findings.items()
    }
    beside = {
        role: other and _record(other) for role, other in (("retrained", audit.retrained), ("before", audit.before))
    }
    sets = {name: asdict(facts) for name, facts in audit.sets.items()}
    return finite_json({**vars(audit), "sets": sets, "findings": findings, **beside})


def _audit(document: Mapping[str, Any]) -> Audit:
    return Audit(
        name=document["name"],
        sets={name: SetFacts(**facts) for name, facts in document["sets"].items()},
        settings=dict(document["settings"]),
        findings={Attack(name): _finding(record) for name, record in document["findings"].items()},
        run=dict(document["run"]),
        **{role: None if document[role] is None else _audit(document[role]) for role in ("retrained", "before")},
    )


def _finding(record: Mapping[str, Any]) -> Finding:
    return Finding(
        {name: metric_of(metric) for name, metric in record["metrics"].items()},
        {name: [(step, value) for step, value in curve] for name, curve in record["curves"].items()},
        record["reason"],
    )
