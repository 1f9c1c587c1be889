"""An audit of a model: each attack in turn, and what they found, as a JSON file."""

import gc
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from egup_trainer.audit import ATTACKS, attacks_named
from egup_trainer.audit.attack import FAILED, Finding, Target, sample_rows
from egup_trainer.audit.audit_options import AuditOptions
from egup_trainer.audit.budget import Budget
from egup_trainer.audit.judge import check_judge
from egup_trainer.data.overlap import keep_apart_from_forget
from egup_trainer.data.schema import Row
from egup_trainer.errors import ConfigError, DataError, EgupError, first_line
from egup_trainer.evaluation.documents import STRICT, read_results, refuse_differences, to_json
from egup_trainer.evaluation.evaluation import SetFacts
from egup_trainer.extras import require_extra
from egup_trainer.files import write_file
from egup_trainer.modeling.limits import check_positions

SCHEMA_VERSION = 1
_KIND = "egup_trainer audit"
_JUDGE = "a model that judges texts"
_UNSEEN_ROWS, _MODEL_BEFORE = "rows that no model saw", "the model before unlearning"


@dataclass(frozen=True)
class Audit:
    """One model under attack, beside the models that it is compared with. It contains no text of a row.

    Args:
        name: of the model, for tables.
        sets: facts of the row sets, by name.
        settings: what numbers depend on; the same for audits that are compared.
        findings: by attack, in the order of `ATTACKS`.
        run: model, versions, command, machine, seconds.
        retrained: the same of the model that never saw the forget rows, to compare with.
        before: the same of the model before unlearning.
    """

    name: str
    sets: dict[str, SetFacts]
    settings: dict[str, Any]
    findings: dict[str, Finding]
    run: dict[str, Any] = field(default_factory=dict)
    retrained: "Audit | None" = None
    before: "Audit | None" = None
    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        if unknown := self.findings.keys() - ATTACKS.keys():
            raise ValueError(f"findings of unknown attacks: {', '.join(sorted(unknown))}")

    def value(self, attack: str, metric: str) -> float | None:
        """Value of a `metric` of an `attack`, or None if it was not run or could not be computed.

        Example:
            >>> Audit("mine", {}, {}, {}).value("sampling", "best_rouge")
        """
        found = self.findings.get(attack, Finding()).metrics.get(metric)
        return None if found is None else found.value

    def alone(self) -> "Audit":
        """The audit without the models beside it."""
        return replace(self, retrained=None, before=None)

    def to_json(self) -> str:
        """The audit as JSON, with its kind and version."""
        return to_json(asdict(self), _KIND, SCHEMA_VERSION)

    def write(self, path: str | Path) -> None:
        """Writes the JSON to `path`, atomically and readable by the user alone."""
        write_file(path, self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> "Audit":
        """Reads an audit back from `path`.

        Raises:
            DataError: the file is missing or incomplete, or is of another kind or version.
        """
        required = [each.name for each in fields(cls)]
        return read_results(Path(path), cls, _KIND, SCHEMA_VERSION, "audit", required)[0]


def check_same_audit(audit: Audit, other: Audit, other_name: str) -> None:
    """Raises `DataError` if two audits differ in rows or settings."""
    refuse_differences(
        (audit.name, _identity(audit)),
        (other_name, _identity(other)),
        fix="audit both models with the same rows and options",
    )


def _identity(audit: Audit) -> dict[str, str]:
    sets = {f"{name} rows of fingerprint": str(facts.fingerprint) for name, facts in audit.sets.items()}
    return {**sets, **{name: json.dumps(value) for name, value in audit.settings.items()}}


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
    load_before: Callable[[], nn.Module] | None = None,
    budget: Budget | None = None,
) -> Audit:
    """Tries to bring forgotten rows back, and reports how far each attack gets.

    An attack that fails, for example because memory runs out, has the error as its reason (`Finding.failed`), so that
    nothing is lost of what the others found.

    Args:
        model: the model, not wrapped, on the device that it will run on; its weights stay as they are.
        tokenizer: the model's tokenizer.
        forget: the rows that it should have forgotten.
        retain: rows that it should have kept.
        holdout: rows of the forget set's kind that no model saw; probe and membership need them.
        attacks: names of attacks; all by default.
        options: how they are run.
        name: of the model, for tables.
        retrained: the same audit of the model that never saw the forget rows.
        before: the same audit of the model before unlearning.
        load_before: returns the model before unlearning, whose weights depth and merging need; called by each of them.
        budget: how long the audit may take, together with those of other models that have the same budget; attacks for
            which no time is left are not run, and their findings say so. By default, time is not limited.

    Raises:
        ConfigError: there is no such attack, or it needs holdout rows or the model before.
        DataError: rows cannot be used, or an audit to compare with is of other rows or options.
        ModelError: the tokenizer is not the model's, or a row has more tokens than the model can read.

    Example:
        >>> # audit = audit_model(model, tokenizer, load_rows("forget.jsonl"), load_rows("retain.jsonl"))
        >>> # audit.value("relearning", "forget_speed")
    """
    from egup_trainer.modeling.loading import keep_gradients_of_4bit_layers

    options = options or AuditOptions()
    has_before = load_before is not None
    planned = plan_audit(forget, retain, holdout, attacks=attacks, options=options, name=name, has_before=has_before)
    for role, other in (("retrained", retrained), ("before", before)):
        if other is not None:
            check_same_audit(planned, other, f"the {role} model's audit")
    keep_gradients_of_4bit_layers(model)  # before an attack runs it in evaluation mode
    sets = _chosen(forget, retain, holdout, options)
    of_before, of_retrained = ({} if other is None else other.findings for other in (before, retrained))
    target = Target(model, tokenizer, sets, options, of_before, of_retrained, load_before)
    for each, rows in sets.items():  # hours before an attack reads them
        lengths = [len(row) for row in target.tokenized(rows, f"{each} set").rows]
        check_positions(model, max(lengths), f"the {each} set", "lower --max_length")
    if budget is not None:
        budget.begin_model()
    run = budget.run if budget is not None else lambda attack, attempt: attempt()
    return replace(
        planned,
        findings={
            attack: finding if finding.reason else run(attack, partial(_attempt, attack, target))
            for attack, finding in planned.findings.items()
        },
        retrained=None if retrained is None else retrained.alone(),
        before=None if before is None else before.alone(),
    )


def _attempt(attack: str, target: Target) -> Finding:
    """What an attack finds, with the finite points of its curves alone; if it fails, the reason."""
    try:
        found = ATTACKS[attack].run(target)
    except Exception as error:
        says = str(error) if isinstance(error, EgupError) else f"{type(error).__name__}: {first_line(error)}"
    else:
        points = {name: [point for point in curve if math.isfinite(point[1])] for name, curve in found.curves.items()}
        curves = {name: curve for name, curve in points.items() if curve}
        bands = {
            name: [each for each in band if all(map(math.isfinite, each[1:]))]
            for name, band in found.bands.items()
            if name in curves
        }
        return replace(found, curves=curves, bands=bands)
    gc.collect()  # what it held, such as a copy of the model
    torch.cuda.empty_cache()
    return Finding(reason=f"{FAILED}: {says}")


def plan_audit(
    forget: list[Row],
    retain: list[Row],
    holdout: list[Row] | None = None,
    *,
    attacks: Sequence[str] | None = None,
    options: AuditOptions,
    name: str,
    has_before: bool = False,
) -> Audit:
    """An audit without results yet: which attacks will be run on the model `name`, on which rows. Arguments as above.

    `has_before` says whether there is a model before unlearning.

    Raises:
        ConfigError: there is no such attack, or it needs holdout rows or the model before.
        DataError: a set has no rows, or a forget row is also in another set.
    """
    require_extra("evaluation", "an audit")
    chosen = attacks_named(ATTACKS if attacks is None else attacks)
    keep_apart_from_forget(forget=forget, retain=retain, holdout=holdout, drop=False)
    sets = _chosen(forget, retain, holdout, options)
    for set_name, rows in sets.items():
        if not rows:
            raise DataError(got=f"no {set_name} rows", expected="at least one", fix="check the source")
    if "relearning" in chosen:
        options.sizes_for(len(sets["forget"]))  # refuses before a model is loaded
    lacks = {
        "holdout": (_UNSEEN_ROWS, [each for each in chosen if ATTACKS[each].needs_holdout and holdout is None]),
        "judge_model": (
            _JUDGE,
            [each for each in chosen if ATTACKS[each].needs_judge and options.judge_model is None],
        ),
        "model_before": (_MODEL_BEFORE, [each for each in chosen if ATTACKS[each].needs_before and not has_before]),
    }
    if "semantic" in chosen and options.judge_model is not None:
        check_judge(options.judge_model)
    reasons = {each: f"needs {what} (--{flag})" for flag, (what, lacking) in lacks.items() for each in lacking}
    for flag, (what, lacking) in lacks.items():
        if lacking and attacks is not None:
            raise ConfigError(got=f"the attack {lacking[0]} without --{flag}", expected=what, fix=f"set --{flag}")
    facts = {each: SetFacts(len(rows), options.row_set(each, rows).fingerprint) for each, rows in sets.items()}
    findings = {attack: Finding(reason=reasons.get(attack)) for attack in chosen}
    return Audit(name, facts, options.settings, findings)


def _chosen(
    forget: list[Row], retain: list[Row], holdout: list[Row] | None, options: AuditOptions
) -> dict[str, list[Row]]:
    """The rows of each set that are used: all, or `max_rows` of them."""
    sets = {"forget": forget, "retain": retain, **({} if holdout is None else {"holdout": holdout})}
    if options.max_rows is None:
        return sets
    return {
        name: [rows[i] for i in sample_rows(options.max_rows, len(rows), options.seed)] for name, rows in sets.items()
    }
