"""`egup evaluate`: measures a model on a suite, writes every metric as JSON, and prints them as a table."""

import json
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egup_trainer import __version__
from egup_trainer.cli.command import Command, library_errors, model_config
from egup_trainer.cli.flags import (
    SOURCE,
    LoadingArguments,
    LongRowArguments,
    RunArguments,
    TemplateArguments,
    check_output,
    flag,
    load_on_device,
    refuse_alone,
    refuse_lora_flags,
    refuse_several_processes,
)
from egup_trainer.cli.suites import SuiteArguments, make_suite, suite_named
from egup_trainer.cli.terminal import make_table, show
from egup_trainer.data.schema import MAX_LENGTH
from egup_trainer.errors import ConfigError, DataError, check_range, choose
from egup_trainer.evaluation.definitions import Definitions
from egup_trainer.evaluation.suites import SUITES
from egup_trainer.extras import require_extra
from egup_trainer.files import check_writable, write_file

if TYPE_CHECKING:
    from egup_trainer.records.schema import RunRecord


@dataclass
class EvaluateArguments(SuiteArguments, TemplateArguments, LongRowArguments, LoadingArguments, RunArguments):
    """Which suite, on which rows, and where the results go."""

    suite: str | None = flag(f"Which suite: one of {', '.join(SUITES)}; custom is your own rows.")
    forget: str | None = flag(f"custom: the forget set: {SOURCE}.")
    retain: str | None = flag("custom: source of the retain set.")
    drop_overlap: bool = flag(
        "custom: leave out retain and holdout rows that are also forget rows, instead of an error.", False
    )
    definitions: Definitions = flag(
        "Which definitions of metrics to use: egup-trainer, or, with tofu and muse, open-unlearning: OpenUnlearning's "
        "numbers with their faults, which are also written in its layout (OUTPUT.TOFU_EVAL.json, "
        "OUTPUT.MUSE_EVAL.json). Short form: --as.",
        Definitions.OURS.value,
        aliases=["--as"],
    )
    metrics: str | None = flag(
        "Metrics to compute, separated by commas, such as forget_probability,retain_probability; by default all that "
        "the suite has. The model is run only on what they need."
    )
    skip_generation: bool = flag("Compute no metric of what the model writes, which takes most of the time.", False)
    output: str | None = flag("The results: a file that ends in .json.")
    name: str | None = flag("Name of the model in tables (default: its folder).")
    before: str | None = flag("Results (JSON) of the model before unlearning, for the shift of retain features.")
    reference: str | None = flag("Results (JSON) of a reference model, for the reference attack.")
    model_before: str | None = flag(
        "Folder or hub id of the model before unlearning, which judges the perplexity of the generations. Not needed "
        "for an adapter, which is switched off instead."
    )
    gradient_norms: bool = flag(
        "Compute the gradnorm attack, too, which takes a backward pass for each row of two sets.", False
    )
    show_examples: int = flag("Keep prompt, answer and generation of this many rows per set in the results.", 0)
    lm_eval_tasks: str | None = flag("Tasks of lm-evaluation-harness, separated by commas (needs the extra lm-eval).")
    lm_eval_include_path: str | None = flag("Folder with more lm-eval tasks.")
    update_model_card: bool = flag("Put the metrics into the model card (README.md) in the model's folder.", False)
    per_device_eval_batch_size: int = flag("Rows per batch, of up to 256 tokens each.", 16)
    max_length: int = flag("Maximum number of tokens per text.", MAX_LENGTH)
    feature_layer: float = flag("Layer of the features: a share of the depth, or an index.", 0.5)
    bf16: bool = flag("Autocast to bfloat16; log-softmax stays in float32.", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.definitions = choose(Definitions, self.definitions, "definitions")


def run(args: EvaluateArguments, model_config: Any) -> None:
    """Evaluates, writes the results, prints a table.

    Raises:
        ConfigError: flags do not fit each other, or --update_model_card finds no record of a run.
    """
    _check_flags(args, model_config)
    from egup_trainer.evaluation.evaluation import write_evaluation
    from egup_trainer.evaluation.kept_scores import KeptScores
    from egup_trainer.evaluation.open_unlearning_file import results_path, to_text
    from egup_trainer.records.card import update_metrics
    from egup_trainer.records.facts import run_facts
    from egup_trainer.records.io import read_record
    from egup_trainer.records.redaction import credentials_in, words_without
    from egup_trainer.records.schema import CARD_NAME

    folder = Path(model_config.model_name_or_path)
    record, training = read_record(folder), _log_history(folder)
    if args.update_model_card and record is None:
        raise ConfigError(
            got=f"--update_model_card for {folder}, which has no record of an unlearning run",
            expected="the folder of a model that `egup unlearn` or a trainer of this package saved",
            fix="leave out --update_model_card",
        )
    if args.update_model_card:
        check_writable(folder / CARD_NAME)
    start, kept = time.perf_counter(), KeptScores(Path(str(args.output)), __version__)
    scores: dict[str, Any] = {}
    with library_errors():
        evaluation, accelerator, other_rows = _evaluate(args, model_config, record, kept, scores)
    if not accelerator.is_main_process:
        return
    facts = run_facts(
        command=shlex.join(words_without(credentials_in(args.loading), args.argv)),
        model=model_config.model_name_or_path,
        processes=accelerator.num_processes,
        seconds=round(time.perf_counter() - start, 3),
        **({} if record is None else {"unlearning": record}),
        **({} if other_rows is None else {"other_rows": other_rows}),
    )
    output = Path(str(args.output))
    theirs = results_path(output, evaluation.suite) if args.definitions is Definitions.OPEN_UNLEARNING else None
    try:
        write_evaluation(output, replace(evaluation, run=facts, training=training))
        if theirs is not None:
            write_file(theirs, to_text(evaluation, scores))
        kept.remove()
        if args.update_model_card:
            update_metrics(folder, evaluation.values)
    finally:
        _print(evaluation, args.max_length)  # even if the disk has filled up meanwhile
    if other_rows is not None:
        print(other_rows)
    if kept.found:
        print(f"Scores of {', '.join(kept.found)} rows are those of the same evaluation, which was interrupted")
    print(f"Written to {args.output}")
    if theirs is not None:
        print(f"Written in the layout of OpenUnlearning to {theirs}")


def check(args: EvaluateArguments, model_config: Any) -> None:
    """Raises an error for all that can be refused before a model is loaded."""
    require_extra("evaluation", "an evaluation")
    _check_flags(args, model_config)
    with library_errors():
        _plan(args, model_config)


def _check_flags(args: EvaluateArguments, model_config: Any) -> None:
    if args.drop_overlap and "forget" not in suite_named(str(args.suite)).parameters:
        raise ConfigError(
            got=f"--drop_overlap with --suite {args.suite}",
            expected="--suite custom, whose rows are your own",
            fix="leave out --drop_overlap",
        )
    if args.definitions is not Definitions.OURS and args.suite not in ("tofu", "muse"):
        raise ConfigError(
            got=f"--as {args.definitions.value} with --suite {args.suite}",
            expected="--suite tofu or muse, which OpenUnlearning has as well",
            fix="leave out --as",
        )
    check_range(args, ("show_examples",), low=0, whole=True)
    check_range(args, ("per_device_eval_batch_size", "max_length"), low=1, whole=True)
    others = [args.retrained, args.before, args.reference]
    check_output(Path(str(args.output)), ".json", '"kind": "egup_trainer evaluation"', others)
    if args.definitions is Definitions.OPEN_UNLEARNING:
        from egup_trainer.evaluation.open_unlearning_file import results_path

        check_output(results_path(Path(str(args.output)), str(args.suite)), ".json", '"value_by_index"', others)
    if args.lm_eval_include_path and not args.lm_eval_tasks:
        refuse_alone("lm_eval_include_path", "lm_eval_tasks")
    refuse_lora_flags(model_config)


@dataclass(frozen=True)
class _Planned:
    """What is known before a model is loaded: the metrics to compute, on which rows, and results to compare with."""

    suite: Any
    names: list[str]
    options: Any
    tokenizer: Any
    evaluation: Any
    others: dict[str, Any]


def _plan(args: EvaluateArguments, model_config: Any) -> _Planned:
    """What is to be evaluated, which is refused here if it cannot be."""
    from egup_trainer.evaluation.evaluation import read_evaluation
    from egup_trainer.evaluation.relative import check_relations
    from egup_trainer.evaluation.rows import texts_of
    from egup_trainer.evaluation.run import plan_of
    from egup_trainer.evaluation.scoring import ScoringOptions

    how = {name: getattr(args, name) for name in ("forget", "retain", "template", "max_length", "drop_overlap")}
    suite = make_suite(suite_named(str(args.suite)), args, **how)
    options = ScoringOptions(
        batch_size=args.per_device_eval_batch_size,
        feature_layer=args.feature_layer,
        with_gradient_norms=args.gradient_norms,
        progress=not args.disable_tqdm,
    )
    names = _chosen(suite, args)
    model_name = model_config.model_name_or_path
    roles = ("before", "retrained", "reference")
    others = {role: read_evaluation(path, args.definitions) for role in roles if (path := getattr(args, role))}
    tokenizer = args.tokenizer(model_name, model_config)
    template = args.template_for(tokenizer, model_name, [each.writing for each in others.values()])
    if args.system_prompt and not any(each.template.closed for each in suite.row_sets):
        raise ConfigError(
            got=f"--system_prompt with --suite {args.suite}, whose prompts are written out in its benchmark",
            expected="a suite of questions and answers, such as tofu or custom",
            fix="leave out --system_prompt",
        )
    suite = suite.reading(template, args.on_long_row).following(args.definitions)
    texts = texts_of(suite.row_sets, tokenizer, options.progress)
    planned = plan_of(suite, options, args.name or Path(model_name).name, texts)
    check_relations(planned, **others)
    return _Planned(suite, names, options, tokenizer, planned, others)


def _evaluate(
    args: EvaluateArguments, model_config: Any, record: "RunRecord | None", kept: Any, scores: dict[str, Any]
) -> tuple[Any, Any, str | None]:
    """The evaluation, the `Accelerator` that it was done with, and a line if its rows are not those of the record.

    What the model's numbers were goes into `scores`, by row set.
    """
    from accelerate import Accelerator

    from egup_trainer.evaluation.relative import with_relations
    from egup_trainer.evaluation.run import evaluate_model
    from egup_trainer.evaluation.selection import selected
    from egup_trainer.report.remarks import named_by_number

    accelerator = Accelerator(cpu=args.use_cpu, mixed_precision="bf16" if args.bf16 else "no")
    args.disable_tqdm = args.disable_tqdm or not accelerator.is_main_process
    plan = _plan(args, model_config)
    model_name, tokenizer, others = model_config.model_name_or_path, plan.tokenizer, plan.others
    if accelerator.is_main_process:
        for role, other in others.items():
            show(lines=[f"--{role}: {said}" for said in named_by_number(other)])
    tasks = _lm_eval_tasks(args, accelerator)

    def score(*args: Any) -> dict[str, Any]:
        scores.update(kept.score(*args))
        return scores

    model = load_on_device(model_name, model_config, accelerator, **args.loading)
    found = evaluate_model(
        model,
        tokenizer,
        selected(plan.suite, plan.names),
        plan.options,
        name=plan.evaluation.name,
        accelerator=accelerator,
        model_before=load_on_device(args.model_before, model_config, accelerator, **args.loading)
        if args.model_before
        else None,
        show_examples=args.show_examples,
        score=score,
    )
    # All rows of the suite are named, so that results with other metrics can be compared.
    evaluation = with_relations(replace(found, sets=plan.evaluation.sets, settings=plan.evaluation.settings), **others)
    evaluation = replace(evaluation, metrics={each: evaluation.metrics[each] for each in plan.names})
    if tasks:
        evaluation = _with_lm_eval(evaluation, tasks, model, tokenizer, args)
    other_rows = None if record is None else _other_rows(plan.suite, tokenizer, model_name, record)
    return evaluation, accelerator, other_rows


def _chosen(suite: Any, args: EvaluateArguments) -> list[str]:
    """The metrics to compute.

    Raises:
        ConfigError: one is unknown, or a flag serves only metrics that are not computed.
    """
    from egup_trainer.evaluation.metric_registry import Reads
    from egup_trainer.evaluation.selection import chosen_metrics, reads

    wanted = None if args.metrics is None else [name.strip() for name in args.metrics.split(",") if name.strip()]
    names = chosen_metrics(suite, wanted, with_generations=not args.skip_generation)
    serves = {
        "gradient_norms": "mia_gradnorm" in names,
        "model_before": reads(names, Reads.PERPLEXITY),
        "show_examples": reads(names, Reads.GENERATIONS),
    }
    for flag_name, has_use in serves.items():
        if getattr(args, flag_name) and not has_use:
            raise ConfigError(
                got=f"--{flag_name}, which none of the chosen metrics uses",
                expected="a metric that needs it",
                fix=f"leave out --{flag_name}, or choose other --metrics",
            )
    return names


def _other_rows(suite: Any, tokenizer: Any, folder: str, record: "RunRecord") -> str | None:
    """A line that says so if the forget rows are not those that the model's record names; else None.

    Their number tells, and their fingerprint if the secret that keys it is still there.
    """
    from egup_trainer.data.schema import Row
    from egup_trainer.data.tokenization import tokenize
    from egup_trainer.records.facts import fingerprint
    from egup_trainer.records.io import read_secrets

    rows = next((each for each in suite.row_sets if each.name == "forget"), None)
    forgotten = record["rows"].get("forget")
    if rows is None or forgotten is None:
        return None
    start = f"The record of {Path(folder).name} names {forgotten['rows']} forget rows"
    if len(rows.rows) != forgotten["rows"]:
        return f"{start}, but {len(rows.rows)} were evaluated: these numbers are of other rows."
    secrets = read_secrets(folder)
    answers = [Row(row.prompt, row.answer) for row in rows.rows]
    tokenized = tokenize(answers, tokenizer, name="forget set", max_length=rows.max_length, template=rows.template)
    if not secrets or fingerprint(tokenized, secrets[0]) == forgotten["fingerprint"]:
        return None
    return f"{start}. As many were evaluated, but other rows or in another form: their fingerprints differ."


def _lm_eval_tasks(args: EvaluateArguments, accelerator: Any) -> list[Any]:
    """The tasks of lm-evaluation-harness with their data, or an empty list."""
    if not args.lm_eval_tasks:
        return []
    refuse_several_processes("--lm_eval_tasks", accelerator.num_processes)
    from egup_trainer.evaluation.metrics.lm_eval import load_tasks

    names = [name.strip() for name in args.lm_eval_tasks.split(",") if name.strip()]
    return load_tasks(names, args.lm_eval_include_path, progress=not args.disable_tqdm)


def _with_lm_eval(evaluation: Any, tasks: list[Any], model: Any, tokenizer: Any, args: EvaluateArguments) -> Any:
    from egup_trainer.evaluation.metrics.lm_eval import lm_eval_metrics

    found = lm_eval_metrics(
        model,
        tokenizer,
        tasks,
        batch_size=args.per_device_eval_batch_size,
        mixed_precision_dtype="bfloat16" if args.bf16 else None,
        progress=not args.disable_tqdm,
    )
    return replace(evaluation, metrics=evaluation.metrics | found)


def _log_history(folder: Path) -> list[dict[str, Any]]:
    """What the training that made the model logged, if it was saved with it."""
    path = folder / "trainer_state.json"
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["log_history"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            got=f"{path}, which is not the state of a trainer",
            expected="a file as a Trainer saves it",
            fix="delete or repair it",
        ) from error


def _print(evaluation: Any, max_length: int) -> None:
    from egup_trainer.data.tokenization import long_rows_line

    title = f"{evaluation.name}: {evaluation.suite} {evaluation.split or ''}"
    table = make_table(title, ("metric", "value", "95% interval", "rows"))
    without_value: dict[str, list[str]] = {}
    for name, metric in evaluation.metrics.items():
        if metric.value is None:
            without_value.setdefault(str(metric.reason), []).append(name)
            continue
        interval = "" if metric.interval is None else f"{metric.interval[0]:.4g} to {metric.interval[1]:.4g}"
        of_all = f" of {metric.num_samples + metric.num_skipped}" if metric.num_skipped else ""
        table.add_row(name, f"{metric.value:.4g}", interval, f"{metric.num_samples}{of_all}")
    lines = [f"No value for {', '.join(names)}: {reason}" for reason, names in without_value.items()]
    sets = evaluation.sets.items()
    long_rows = (long_rows_line(name, each.num_rows, each.cut, each.in_windows, max_length) for name, each in sets)
    show(table, lines=[*lines, *filter(None, long_rows)])


COMMAND = Command(
    "evaluate",
    "measure what a model still says of rows, by every metric of a suite",
    run,
    check=check,
    options=lambda: [EvaluateArguments, model_config()],
    required=("model_name_or_path", "suite", "output"),
    shown=(
        "forget",
        "retain",
        "holdout",
        "neighbor",
        "retrained",
        "before",
        "name",
        "metrics",
        "skip_generation",
        "columns",
        "max_new_tokens",
        "show_examples",
        "update_model_card",
        "per_device_eval_batch_size",
        "bf16",
        "use_cpu",
        "load_in_4bit",
        "dtype",
    ),
)
