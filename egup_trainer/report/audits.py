"""Audits in a report: their models side by side, as a comparison of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from egup_trainer.audit.audit import Audit, check_same_audit
from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.report.comparison import Comparison, Model, Role
from egup_trainer.report.plots.curves import relearning_curves
from egup_trainer.report.plots.drawing import Gallery, Look, looks
from egup_trainer.report.table import Parts, table_parts


@dataclass(frozen=True)
class AuditSection:
    """What a report shows of the audits of unlearned models: all audited models side by side, their table and curves.

    `not_run` names attacks that were not run, with the reason, and unless it is so in all audits, of which models.
    """

    audits: tuple[Audit, ...]
    comparison: Comparison
    parts: Parts
    curves: Gallery
    not_run: dict[str, str]
    looks: dict[str, Look]


def audit_section(audits: Sequence[Audit], comparison: Comparison) -> AuditSection | None:
    """The section of the given audits, in which models look as in the rest of the report; None without audits.

    The retrained and the initial model are those of the first audit that has them.

    Raises:
        ConfigError: two models have the same name.
        DataError: two audits are of different rows or options.
    """
    if not audits:
        return None
    for other in audits[1:]:
        check_same_audit(audits[0], other, f"the audit of {other.name}")
    before = [(audit.before, Role.BEFORE) for audit in audits if audit.before is not None]
    retrained = [(audit.retrained, Role.RETRAINED) for audit in audits if audit.retrained is not None]
    shown = [*before[:1], *((audit, Role.METHOD) for audit in audits), *retrained[:1]]
    found = Comparison(tuple(Model(_as_evaluation(audit), role) for audit, role in shown))
    look_of = looks(found) | looks(comparison)
    relearned = {audit.name: audit.findings["relearning"] for audit, _ in shown if "relearning" in audit.findings}
    lacking: dict[tuple[str, str], list[str]] = {}  # audited models by attack and reason
    for audit in audits:
        for attack, finding in audit.findings.items():
            if finding.reason:
                lacking.setdefault((attack, finding.reason), []).append(audit.name)
    not_run = {
        attack if len(names) == len(audits) else f"{attack} of {', '.join(names)}": reason
        for (attack, reason), names in lacking.items()
    }
    curves = relearning_curves(relearned, look_of)
    return AuditSection(tuple(audits), found, table_parts(found), curves, not_run, look_of)


def _as_evaluation(audit: Audit) -> Evaluation:
    """The audit's metrics under names that begin with the attack."""
    metrics = {
        f"{attack}_{name}": metric
        for attack, finding in audit.findings.items()
        for name, metric in finding.metrics.items()
    }
    return Evaluation(audit.name, "audit", None, audit.sets, metrics, audit.settings)
