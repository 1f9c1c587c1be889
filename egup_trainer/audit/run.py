"""An audit of a model: each attack in turn."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from egup_trainer.audit.audit import Audit, Finding, check_same_audit
from egup_trainer.audit.membership import membership
from egup_trainer.audit.options import NEEDS_HOLDOUT, Attack, AuditOptions, attacks_named
from egup_trainer.audit.probe import probe
from egup_trainer.audit.prompts import prompts
from egup_trainer.audit.quantization import quantization
from egup_trainer.audit.relearning import relearning, with_steps_to_half
from egup_trainer.audit.sampling import sampling
from egup_trainer.audit.target import Target, draw_rows
from egup_trainer.data.overlap import keep_apart_from_forget
from egup_trainer.data.schema import Row
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.evaluation.evaluation import SetFacts
from egup_trainer.modeling.loading import keep_gradients_of_4bit_layers

_ATTACKS: dict[Attack, Callable[[Target], Finding]] = {
    Attack.RELEARNING: relearning,
    Attack.QUANTIZATION: quantization,
    Attack.PROMPTS: prompts,
    Attack.SAMPLING: sampling,
    Attack.PROBE: probe,
    Attack.MEMBERSHIP: membership,
}


def audit_model(
    model: nn.Module,
    tokenizer: Any,
    forget: list[Row],
    retain: list[Row],
    holdout: list[Row] | None = None,
    *,
    attacks: Sequence[str] | None = None,
    options: AuditOptions | None = None,
    name: str = "model",
    retrained: Audit | None = None,
    before: Audit | None = None,
) -> Audit:
    """Tries to bring forgotten rows back, and says how far each attack gets.

    Args:
        model: the model, bare, on the device that it is to run on; its weights stay as they are.
        tokenizer: the model's tokenizer.
        forget: the rows that it is to have forgotten.
        retain: rows that it is to have kept.
        holdout: rows of the forget set's kind that no model saw; probe and membership need them.
        attacks: names of attacks; by default all.
        options: how they are run.
        name: of the model, for tables.
        retrained: the same audit of the model that never saw the forget rows.
        before: the same audit of the model before unlearning.

    Raises:
        ConfigError: there is no such attack, or it needs holdout rows.
        DataError: rows cannot be used, or an audit to compare with is of other rows or options.
        ModelError: the model cannot be used.

    Example:
        >>> # audit = audit_model(model, tokenizer, load_rows("forget.jsonl"), load_rows("retain.jsonl"))
        >>> # audit.value("relearning", "forget_speed")
    """
    options = options or AuditOptions()
    planned = plan_audit(forget, retain, holdout, attacks=attacks, options=options, name=name)
    for role, other in (("retrained", retrained), ("before", before)):
        if other is not None:
            check_same_audit(planned, other, f"the {role} model's audit")
    if Attack.RELEARNING in planned.findings:
        keep_gradients_of_4bit_layers(model)  # before an attack runs it in evaluation mode
    target = Target(model, tokenizer, _chosen(forget, retain, holdout, options), options)
    findings = {
        attack: finding if finding.reason else _ATTACKS[attack](target) for attack, finding in planned.findings.items()
    }
    found = findings.get(Attack.RELEARNING)
    if found is not None and found.curves:
        found_before = None if before is None else before.findings.get(Attack.RELEARNING)
        findings[Attack.RELEARNING] = with_steps_to_half(found, found_before)
    return replace(
        planned,
        findings=findings,
        retrained=None if retrained is None else retrained.alone(),
        before=None if before is None else before.alone(),
    )


def plan_audit(
    forget: list[Row],
    retain: list[Row],
    holdout: list[Row] | None = None,
    *,
    attacks: Sequence[str] | None = None,
    options: AuditOptions,
    name: str,
) -> Audit:
    """An audit without results yet: which attacks the model `name` is going to meet, on what; arguments as above.

    Raises:
        ConfigError: there is no such attack, or it needs holdout rows.
        DataError: a set has no rows, or a forget row stands in another set.
    """
    chosen = attacks_named([attack.value for attack in Attack] if attacks is None else attacks)
    keep_apart_from_forget(forget=forget, retain=retain, holdout=holdout, drop=False)
    sets = _chosen(forget, retain, holdout, options)
    for set_name, rows in sets.items():
        if not rows:
            raise DataError(got=f"no {set_name} rows", expected="at least one", fix="check the source")
    lacking = [attack for attack in chosen if attack in NEEDS_HOLDOUT and holdout is None]
    if lacking and attacks is not None:
        raise ConfigError(
            got=f"the attack {lacking[0].value} without holdout rows",
            expected="rows of the forget set's kind that no model saw",
            fix="set --holdout",
        )
    reasons = dict.fromkeys(lacking, "needs rows that no model saw (--holdout)")
    target = Target(nn.Identity(), None, sets, options)
    facts = {each: SetFacts(len(rows), target.row_set(each).fingerprint) for each, rows in sets.items()}
    findings = {attack: Finding(reason=reasons.get(attack)) for attack in chosen}
    return Audit(name, facts, options.settings, findings)


def _chosen(
    forget: list[Row], retain: list[Row], holdout: list[Row] | None, options: AuditOptions
) -> dict[str, list[Row]]:
    """The rows of each set that are used: all, or so many as are asked for."""
    sets = {"forget": forget, "retain": retain, **({} if holdout is None else {"holdout": holdout})}
    if options.max_rows is None:
        return sets
    return {
        name: [rows[i] for i in draw_rows(options.max_rows, len(rows), options.seed)] for name, rows in sets.items()
    }
