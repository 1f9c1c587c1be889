"""`egup audit`: tries to bring the forgotten rows back, and reports how far it gets."""

import gc
import shlex
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egup_trainer.cli.common import (
    RunArguments,
    SourceArguments,
    check_output,
    load_on_device,
    one_line_errors,
    parse,
    quiet_libraries,
    refuse_lora_flags,
    require,
)
from egup_trainer.data.schema import MAX_LENGTH
from egup_trainer.errors import ConfigError, check_range

if TYPE_CHECKING:
    from egup_trainer.audit.audit import Audit
    from egup_trainer.evaluation.metric import Metric

_SETS = ("forget", "retain", "holdout")


@dataclass
class AuditArguments(SourceArguments, RunArguments):
    """Which rows, which models to compare with, which attacks, and how they are run."""

    forget: str | None = field(
        default=None, metadata={"help": "The rows to be forgotten: a source as for `egup unlearn`."}
    )
    retain: str | None = field(default=None, metadata={"help": "Rows to be kept: a source alike."})
    holdout: str | None = field(
        default=None,
        metadata={"help": "Rows of the forget set's kind that no model saw, for probe and membership: a source alike."},
    )
    drop_overlap: bool = field(
        default=False,
        metadata={"help": "Leave out retain and holdout rows that are forget rows, too, instead of refusing them."},
    )
    retrained_model: str | None = field(
        default=None, metadata={"help": "Folder or hub id of a model that never saw the forget rows: the yardstick."}
    )
    model_before: str | None = field(
        default=None, metadata={"help": "Folder or hub id of the model before unlearning."}
    )
    output: str | None = field(default=None, metadata={"help": "The results: a file that ends in .json."})
    name: str | None = field(default=None, metadata={"help": "Name of the model in tables (default: its folder)."})
    attacks: list[str] | None = field(
        default=None,
        metadata={"help": "Some of relearning, quantization, prompts, sampling, probe, membership (default: all)."},
    )
    seed: int = field(default=0, metadata={"help": "Of the choice of rows, their order, and what is drawn."})
    relearn_share: float = field(
        default=0.1, metadata={"help": "Share of the forget rows that is learned again, four rows at least."}
    )
    relearn_steps: int = field(default=20, metadata={"help": "Optimizer steps of relearning."})
    relearn_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of relearning, constant."})
    relearn_batch_size: int = field(default=4, metadata={"help": "Rows in a step of relearning."})
    relearn_every: int = field(default=2, metadata={"help": "Steps between two points of the curve."})
    num_samples: int = field(default=8, metadata={"help": "Generations drawn for each forget row."})
    max_new_tokens: int = field(default=200, metadata={"help": "Most tokens in a generation."})
    max_length: int = field(default=MAX_LENGTH, metadata={"help": "Most tokens in a text."})
    max_rows: int | None = field(default=None, metadata={"help": "Most rows of each set, drawn (default: all)."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Rows in a batch, of up to 256 tokens."})


def main(argv: list[str]) -> None:
    """Attacks the model and those it is compared with, writes what was found, prints a table."""
    quiet_libraries()
    from trl import ModelConfig

    args, model_config = parse("audit", [AuditArguments, ModelConfig], argv)
    _check(args, model_config)
    from egup_trainer.records.facts import run_facts

    start = time.perf_counter()
    with one_line_errors():
        audit = _audit(args, model_config)
    facts = run_facts(
        command=shlex.join(["egup", "audit", *argv]),
        model=model_config.model_name_or_path,
        retrained_model=args.retrained_model,
        model_before=args.model_before,
        seconds=round(time.perf_counter() - start, 3),
    )
    try:
        replace(audit, run=facts).write(args.output)
    finally:
        _print(audit)  # also where the disk has filled up meanwhile
    print(f"Written to {args.output}")


def _check(args: AuditArguments, model_config: Any) -> None:
    needed = {name: getattr(args, name) for name in ("forget", "retain", "output")}
    require("audit", model_name_or_path=model_config.model_name_or_path, **needed)
    rows = [getattr(args, name) for name in _SETS]
    check_output(Path(str(args.output)), ".json", '"kind": "egup_trainer audit"', rows)
    refuse_lora_flags(model_config)


def _audit(args: AuditArguments, model_config: Any) -> "Audit":
    """The audit of the model, beside those of the models that it is compared with; one model in memory at a time."""
    from accelerate import Accelerator

    from egup_trainer.audit.run import audit_model, plan_audit
    from egup_trainer.data.overlap import keep_apart_from_forget
    from egup_trainer.modeling.loading import load_tokenizer

    name = model_config.model_name_or_path
    tokenizer = load_tokenizer(name, revision=model_config.model_revision)
    options = _options(args, args.template_for(tokenizer, name))
    given = ((name, getattr(args, name)) for name in _SETS)
    rows: dict[str, Any] = {name: args.read(source) for name, source in given if source is not None}
    rows = keep_apart_from_forget(**rows, drop=args.drop_overlap)
    plan_audit(**rows, attacks=args.attacks, options=options, name="model")  # before a model is loaded for nothing
    accelerator = Accelerator(cpu=args.use_cpu)
    if accelerator.num_processes > 1:
        raise ConfigError(
            got=f"an audit on {accelerator.num_processes} processes", expected="one", fix="run it in one process"
        )
    found: dict[str, Any] = {}
    for role, path in (("before", args.model_before), ("retrained", args.retrained_model)):
        if path is not None:
            model = load_on_device(path, model_config, accelerator)
            found[role] = audit_model(
                model, tokenizer, **rows, attacks=args.attacks, options=options, name=Path(path).name, **found
            ).alone()
            del model
            gc.collect()
    model = load_on_device(name, model_config, accelerator)
    name = args.name or Path(name).name
    return audit_model(model, tokenizer, **rows, attacks=args.attacks, options=options, name=name, **found)


def _options(args: AuditArguments, template: Any) -> Any:
    from egup_trainer.audit.options import AuditOptions

    check_range(args, ("per_device_eval_batch_size",), low=1, whole=True)
    names = {option.name for option in fields(AuditOptions)}
    return AuditOptions(
        **{name: value for name, value in vars(args).items() if name in names},
        template=template,
        batch_size=args.per_device_eval_batch_size,
        progress=not args.disable_tqdm,
    )


def _print(audit: "Audit") -> None:
    from rich.table import Table

    from egup_trainer.cli.terminal import terminal

    models = {"unlearned": audit, "retrained": audit.retrained, "before": audit.before}
    present = {role: each for role, each in models.items() if each is not None}
    table = Table(title=f"{audit.name}: how far attacks get", title_justify="left")
    for heading in ("attack", "number", *present):
        table.add_column(heading, justify="right" if heading in present else "left", overflow="fold")
    lacking: dict[str, list[str]] = {}
    for attack, finding in audit.findings.items():
        first = attack.value
        for name, metric in finding.metrics.items():
            if metric.value is None:
                lacking.setdefault(str(metric.reason), []).append(f"{attack.value} {name}")
            values = [each.findings[attack].metrics.get(name) for each in present.values()]
            if any(value is not None and value.value is not None for value in values):
                table.add_row(first, name, *map(_cell, values))
                first = ""
        table.add_section()
    console = terminal()
    console.print(table)
    lines = [f"No value for {', '.join(names)}: {reason}" for reason, names in lacking.items()]
    lines += [f"Not run: {attack.value}: {each.reason}" for attack, each in audit.findings.items() if each.reason]
    for line in lines:
        console.print(line, soft_wrap=True)


def _cell(metric: "Metric | None") -> str:
    from egup_trainer.report.numbers import format_number

    return "-" if metric is None else format_number(metric.value)
