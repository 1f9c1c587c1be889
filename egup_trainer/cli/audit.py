"""`egup audit`: tries to bring the forgotten rows back, and reports how far it gets."""

import gc
import shlex
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egup_trainer.audit import ATTACKS
from egup_trainer.cli.command import Command, library_errors, model_config
from egup_trainer.cli.flags import (
    SOURCE,
    LoadingArguments,
    LongRowArguments,
    RunArguments,
    SourceArguments,
    TemplateArguments,
    check_output,
    flag,
    load_on_device,
    refuse_lora_flags,
    refuse_several_processes,
    with_flags_of,
)
from egup_trainer.cli.terminal import make_table, show
from egup_trainer.errors import ModelError, check_range

if TYPE_CHECKING:
    from egup_trainer.audit.audit import Audit

_SETS = ("forget", "retain", "holdout")


@dataclass
class AuditArguments(SourceArguments, TemplateArguments, LongRowArguments, LoadingArguments, RunArguments):
    """Which rows, which models to compare with, and which attacks. `AuditOptions` adds how they are run."""

    help_title = "Audit"

    forget: str | None = flag(f"Rows that were to be forgotten: {SOURCE}.")
    retain: str | None = flag("Source of rows that were to be kept.")
    holdout: str | None = flag(
        "Source of rows of the forget set's kind that no model has seen, for probe and membership."
    )
    drop_overlap: bool = flag(
        "Leave out retain and holdout rows that are also forget rows, instead of an error.", False
    )
    retrained_model: str | None = flag("Folder or hub id of a model that never saw the forget rows, to compare with.")
    model_before: str | None = flag("Folder or hub id of the model before unlearning.")
    output: str | None = flag("The results: a file that ends in .json.")
    name: str | None = flag("Name of the model in tables (default: its folder).")
    attacks: list[str] | None = flag(f"Attacks to run, by default all of these: {', '.join(ATTACKS)}.")
    budget: float | None = flag(
        "Minutes that the attacks on all models may take together: the strongest are run first, and those that do not "
        "fit are left out (default: no limit)."
    )
    per_device_eval_batch_size: int = flag("Rows per batch, of up to 256 tokens each.", 16)


def run(args: AuditArguments, model_config: Any) -> None:
    """Attacks the model and those it is compared with, writes what was found, prints a table.

    Raises:
        ModelError: attacks have failed; what the others found is written.
    """
    _check_flags(args, model_config)
    from egup_trainer.records.facts import run_facts
    from egup_trainer.records.redaction import credentials_in, words_without

    start = time.perf_counter()
    with library_errors():
        audit = _audit(args, model_config)
    facts = run_facts(
        command=shlex.join(words_without(credentials_in(args.loading), args.argv)),
        model=model_config.model_name_or_path,
        retrained_model=args.retrained_model,
        model_before=args.model_before,
        seconds=round(time.perf_counter() - start, 3),
    )
    try:
        replace(audit, run=facts).write(str(args.output))
    finally:
        _print(audit)  # even if the disk has filled up meanwhile
    print(f"Written to {args.output}")
    failed = [attack for attack, finding in audit.findings.items() if finding.failed]
    if failed:
        raise ModelError(
            got=f"attacks that failed: {', '.join(failed)}",
            expected="attacks that run to their end",
            fix="see their reasons above; what the others found is in the file",
        )


def check(args: AuditArguments, model_config: Any) -> None:
    """Raises an error for all that can be refused before a model is loaded."""
    _check_flags(args, model_config)
    with library_errors():
        _plan(args, args.template)


def _check_flags(args: AuditArguments, model_config: Any) -> None:
    from egup_trainer.modeling.loading import refuse_missing_model

    read = [getattr(args, name) for name in _SETS]
    check_output(Path(str(args.output)), ".json", '"kind": "egup_trainer audit"', read)
    refuse_lora_flags(model_config)
    check_range(args, ("per_device_eval_batch_size",), low=1, whole=True)
    # One is loaded after long attacks on another.
    if args.model_before is not None:
        refuse_missing_model(args.model_before, model_config.model_revision)
    if args.retrained_model is not None:
        refuse_missing_model(args.retrained_model, "main")


def _plan(args: AuditArguments, template: Any) -> tuple[dict[str, Any], Any]:
    """The rows and options of the audit, which is refused here if it cannot be run with them."""
    from egup_trainer.audit.audit import plan_audit
    from egup_trainer.audit.audit_options import AuditOptions
    from egup_trainer.data.overlap import keep_apart_from_forget

    names = {option.name for option in fields(AuditOptions)}
    options = AuditOptions(
        **{name: value for name, value in vars(args).items() if name in names},
        template=template,
        batch_size=args.per_device_eval_batch_size,
        progress=not args.disable_tqdm,
    )
    sources = {name: source for name in _SETS if (source := getattr(args, name)) is not None}
    rows: dict[str, Any] = {name: args.read(source) for name, source in sources.items()}
    rows = keep_apart_from_forget(**rows, drop=args.drop_overlap)
    has_before = args.model_before is not None
    plan_audit(**rows, attacks=args.attacks, options=options, name="model", has_before=has_before)
    return rows, options


def _audit(args: AuditArguments, model_config: Any) -> "Audit":
    """The audit of the model, with those of the models that it is compared with, one after the other."""
    from accelerate import Accelerator

    from egup_trainer.audit.audit import audit_model
    from egup_trainer.audit.budget import Budget

    model_name = model_config.model_name_or_path
    others = {"before": args.model_before, "retrained": args.retrained_model}
    budget = None if args.budget is None else Budget(args.budget, 1 + sum(path is not None for path in others.values()))
    tokenizer = args.tokenizer(model_name, model_config)
    rows, options = _plan(args, args.template_for(tokenizer, model_name))
    has_before = args.model_before is not None
    accelerator = Accelerator(cpu=args.use_cpu)
    refuse_several_processes("an audit", accelerator.num_processes)

    def audit(path: str, name: str, how_loaded: Any = model_config, **beside: Any) -> "Audit":
        model = load_on_device(path, how_loaded, accelerator, **args.loading)

        def load_before() -> Any:
            before = str(args.model_before)
            return model if path == before else load_on_device(before, model_config, accelerator, **args.loading)

        how: dict[str, Any] = {"attacks": args.attacks, "options": options, "name": name, "budget": budget}
        return audit_model(model, tokenizer, **rows, **how, **beside, load_before=load_before if has_before else None)

    found: dict[str, Any] = {}
    shown = args.name or Path(model_name).name
    for role, path in others.items():
        if path is not None:
            taken = [shown, *(each.name for each in found.values())]
            name = Path(path).name
            # The revision is that of the model, or of the model before where the first is a folder.
            how = replace(model_config, model_revision="main") if role == "retrained" else model_config
            found[role] = audit(path, f"{name} ({role})" if name in taken else name, how, **found).alone()
            gc.collect()
    return audit(model_name, shown, **found)


def _print(audit: "Audit") -> None:
    from egup_trainer.audit.worst import worst_attack
    from egup_trainer.report.numbers import format_number
    from egup_trainer.report.questions import attack_sentence

    models = {"unlearned": audit, "retrained": audit.retrained, "before": audit.before}
    present = {role: each for role, each in models.items() if each is not None}
    table = make_table(f"{audit.name}: how far attacks get", ("attack", "number", *present), left=("attack", "number"))
    without_value: dict[str, list[str]] = {}
    for attack, finding in audit.findings.items():
        first = attack
        for name, metric in finding.metrics.items():
            label = ATTACKS[attack].label(name)
            if metric.value is None:
                without_value.setdefault(str(metric.reason), []).append(f"{attack} {label}")
            metrics = [each.findings[attack].metrics.get(name) for each in present.values()]
            values = [None if each is None else each.value for each in metrics]
            if any(value is not None for value in values):
                table.add_row(first, label, *map(format_number, values))
                first = ""
        table.add_section()
    worst = worst_attack(audit)
    lines = [] if worst is None else [f"Most successful attack: {attack_sentence(worst)}"]
    lines += [f"{attack}: {ATTACKS[attack].reading}" for attack, each in audit.findings.items() if not each.reason]
    lines += [f"{attack}: {note}." for attack, each in audit.findings.items() for note in each.notes]
    lines += [f"No value for {'; '.join(names)}: {reason}" for reason, names in without_value.items()]
    lines += [f"Not run: {attack}: {each.reason}" for attack, each in audit.findings.items() if each.reason]
    show(table, lines=lines)


def _options() -> list[type]:
    from egup_trainer.audit.audit_options import AuditOptions

    return [with_flags_of(AuditOptions, AuditArguments, "How attacks are run"), model_config()]


COMMAND = Command(
    "audit",
    "try to bring forgotten rows back, by relearning, quantization, prompts, sampling, probes",
    run,
    check=check,
    options=_options,
    required=("model_name_or_path", "forget", "retain", "output"),
    shown=(
        *("holdout", "retrained_model", "model_before", "name", "attacks", "budget", "columns", "max_rows"),
        *("num_samples", "relearn_sizes", "relearn_learning_rates", "relearn_seeds", "per_device_eval_batch_size"),
        *("judge_model", "use_cpu", "load_in_4bit", "dtype"),
    ),
)
