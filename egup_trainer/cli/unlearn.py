"""`egup unlearn`: takes rows to forget, rows to keep and a model, and saves an unlearned model."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from egup_trainer.cli.command import Command, library_errors, model_config
from egup_trainer.cli.earlier import lines_on_earlier, read_earlier
from egup_trainer.cli.flags import SOURCE, Arguments, check_output_dir, flag, refuse_alone
from egup_trainer.cli.follow_up import check_follow_up, follow_up
from egup_trainer.cli.proxy import AUTO, auto_proxies, writes_proxies
from egup_trainer.cli.run_file import config_file_of, write_records
from egup_trainer.cli.suites import SUITE_FLAGS, SuiteArguments, make_suite, suite_named
from egup_trainer.cli.terminal import make_table, show
from egup_trainer.data.schema import MAX_LENGTH
from egup_trainer.errors import (
    ConfigError,
    ModelError,
    StateError,
    TooFewPositionsError,
    TooFewProxiesError,
    UnaskableRowsError,
    did_you_mean,
    first_line,
)
from egup_trainer.evaluation.suites import SUITES
from egup_trainer.extras import MissingExtraError
from egup_trainer.files import one_line_write_errors
from egup_trainer.records.judgments import AFTER, IN_4BIT, MERGED
from egup_trainer.verdict import Status, Verdict

_AUDIT_FLAGS = ("holdout", "max_new_tokens")
"""The flags of a suite that an audit reads, too."""

_WITHOUT_PROXIES = "npo"
"""The objective that is used where there are no proxies, unless the user names one."""

_BETTER_PROXIES = "--proxy, your own rows of the same kind that the model never saw"
_BETTER_MODEL = "--proxy_model, the model before it learned the rows"

_OTHER_VERDICT = 3
"""Exit code of a run whose forget rows are not forgotten, or whose model is harmed."""

_FORGETS_MORE = {Status.NOT_FORGOTTEN: True, Status.PARTLY_FORGOTTEN: True}
_FORGETS_MORE |= {Status.OVER_FORGOTTEN: False, Status.MODEL_HARMED: False}
"""Whether the next run should forget more or less, by the verdict of this one."""


@dataclass
class EvalArguments(SuiteArguments):
    """What is evaluated during training, and after it."""

    eval: str | None = flag("Source of rows to report eval_loss on, with --eval_strategy.")
    eval_suite: str | None = flag(
        f"Suite to run at every evaluation: one of {', '.join(SUITES)}; custom is the forget and retain rows. Any of "
        "its metrics can be --metric_for_best_model."
    )
    report: str | None = flag(
        "Also write a report to this .html file: the model is evaluated before and after, on the forget, retain and "
        "proxy rows or on --evaluate SUITE, and compared as by `egup compare`."
    )
    evaluate: str | None = flag("Suite of --report: custom (the run's own rows) by default.")
    audit: bool = flag("Also try to bring the forgotten rows back, as `egup audit` does.", False)
    retrained_model: str | None = flag(
        "Folder or hub id of a model that never saw the forget rows, which --audit attacks as well, to compare with."
    )


@dataclass
class MergeArguments(Arguments):
    """What becomes of an adapter."""

    help_title = "Model and LoRA"

    merge: bool = flag(
        "Also merge the adapter into its base model, in OUTPUT_DIR/merged. The merged model has the type of --dtype, "
        "and its files are measured again: as they are, and in 4 bits.",
        False,
    )


@dataclass
class RowArguments(EvalArguments, MergeArguments):
    """Which rows. Each source is a path, `tofu:NAME` or a hub id."""

    help_title = "Data"

    forget: str | None = flag(f"Rows to forget: {SOURCE}.")
    retain: str | None = flag("Source of rows to keep.")
    proxy: str | None = flag(
        "Rows of the same kind that the model has never seen, or auto to have the model write them. It also "
        "writes them where an objective needs proxies and none are given."
    )
    earlier_forget: list[str] | None = flag(
        "For a model that was unlearned before: sources of the rows of its earlier requests, to see whether they come "
        "back. By default those that OUTPUT_DIR/_run.json of its last run names."
    )


def training_options() -> list[type]:
    """The dataclasses of the trainer's and the model's flags."""
    from egup_trainer.config import EGUPConfig

    return [EGUPConfig, model_config()]


def run(row_args: RowArguments, config: Any, model_config: Any) -> int:
    """Unlearns, saves model (or adapter) and tokenizer to `--output_dir`, and prints a summary with the verdict.

    Returns:
        0 if the rows are forgotten or no verdict was asked for, 3 otherwise.
    """
    check_flags(row_args, config, model_config)
    resume, objective, writes = resume_from(config), config.objective, writes_proxies(row_args, config)
    with output_folder(config, resume):
        outcome = _unlearn(row_args, config, model_config, resume)
    if outcome is None:  # not the first process
        return 0
    lines, verdict = outcome.lines, outcome.verdict
    if MERGED in outcome.probability:
        lines.append(f"Merged model in {Path(config.output_dir) / MERGED}")
    lines += lines_on_earlier(model_config.model_name_or_path, outcome.probability)
    if verdict is not None:
        lines += [*verdict.lines, *next_step(verdict.status, row_args, config)]
    if config.objective != objective:
        lines.append(
            f"Without proxies, the rows were unlearned with {config.objective}, which cannot know how far to go. "
            f"Better: {_BETTER_PROXIES}, or {_BETTER_MODEL}."
        )
    elif writes:
        better = _BETTER_PROXIES if config.proxy_model else f"{_BETTER_PROXIES}, or in addition {_BETTER_MODEL}"
        lines.append(f"The model wrote the proxies itself. Better: {better}.")
    print_summary(outcome.probability, lines)
    try:
        follow_up(row_args, config, model_config)
    finally:
        if outcome.failure is not None:
            raise outcome.failure
    return 0 if verdict is None or verdict.status is Status.FORGOTTEN else _OTHER_VERDICT


def next_step(status: Status, row_args: RowArguments, config: Any) -> list[str]:
    """What to try after a verdict, as a line; none where nothing is to be changed."""
    from egup_trainer.components.auto import Strength

    if status is Status.UNKNOWN and row_args.proxy is None:
        return ["  Give --proxy: rows of the same kind that the model has never seen."]
    if status not in _FORGETS_MORE:
        return []
    more = _FORGETS_MORE[status]
    tried: list[str] = []
    if not config.uses_auto:
        tried.append(f"a {'higher' if more else 'lower'} --learning_rate than {config.learning_rate:g}")
    else:
        strengths = list(Strength)[:: 1 if more else -1]
        tried += [f"--strength {each.value}" for each in strengths[strengths.index(config.strength) + 1 :][:1]]
    if more or not tried:
        tried.append(f"{'more' if more else 'fewer'} --num_train_epochs than {config.num_train_epochs:g}")
    return [f"  Try {', or '.join(tried)}{'' if more else ', or give more retain rows'}."]


@contextmanager
def output_folder(config: Any, resume: Any) -> Iterator[None]:
    """Locks the output folder from before the model is loaded until the last file is in its place."""
    from egup_trainer.output_folder import alone_in, refuse_finished

    if not config.should_save:
        yield
        return
    with alone_in(config.output_dir):
        own = any(Path(config.output_dir).glob("checkpoint-*"))
        named = resume is not None and resume is not True and Path(resume).resolve().parent
        resumes = own if resume is True else named == Path(config.output_dir).resolve()
        if not resumes and not config.overwrite_output_dir:
            refuse_finished(config.output_dir)
        yield


def begin_output(config: Any) -> None:
    """Marks the output folder as one without a whole model yet, and says where it is, also if no flag named it."""
    from egup_trainer.output_folder import mark_unfinished

    if config.should_save:
        mark_unfinished(config.output_dir)
        show(lines=[f"Output folder: {config.output_dir}"])


@dataclass
class Outcome:
    """What came of a run: lines to close with, and the failure that kept the model from being merged.

    `probability` is of each set of rows, by when it was measured; a text where it could not be.
    """

    probability: dict[str, Any]
    verdict: Verdict | None
    lines: list[str]
    failure: Exception | None


def _unlearn(row_args: RowArguments, config: Any, model_config: Any, resume: Any) -> Outcome | None:
    """Trains and saves the model with all files that belong to it, which appear together; then uploads it, if asked.

    Returns:
        What came of it, on the first process; None on others.
    """
    from accelerate import PartialState

    from egup_trainer.output_folder import appearing_together

    facts: dict[str, Any] = {"config_file": config_file_of(row_args.argv)}  # it may be another file at the end
    trainer, sources = _make_trainer(row_args, config, model_config)
    begin_output(config)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    lines, measuring = _closing_lines(trainer, time.perf_counter() - start), trainer.measuring
    datasets, found = measuring.datasets, dict(measuring.probability)
    lines += [line for name, rows in datasets.items() if (line := rows.long_rows_line(name, config.max_length))]
    facts |= {"model_config": model_config, "sources": sources, "row_args": row_args}
    failure, wait = None, PartialState().wait_for_everyone
    output, is_first, tokenizer = config.output_dir, trainer.is_world_process_zero(), trainer.processing_class
    uploaded = trainer if config.push_to_hub else None  # otherwise it is deleted, to make room for a merged model
    with appearing_together(output, config.should_save, wait) as config.output_dir, one_line_write_errors(output):
        config.output_dir = str(config.output_dir)
        trainer.save_model()
        trainer.create_model_card()
        trainer.save_state()
        trainer.release_output_folder()
        wait()
        if is_first:
            del trainer
            write_records(config, found, datasets, **facts)
        if is_first and row_args.merge:
            try:
                found |= _merge_and_measure(config, tokenizer, datasets)
                write_records(config, found, datasets, **facts)
            except BaseException as error:  # the trained adapter is kept, also if the user interrupts the merge
                found.pop(MERGED, None)
                shutil.rmtree(Path(config.output_dir) / MERGED, ignore_errors=True)
                failure = error
    config.output_dir = output
    if failure is not None and not isinstance(failure, Exception):
        raise failure
    if uploaded is not None and is_first:
        uploaded.is_saved = True
        try:
            uploaded.push_to_hub(commit_message="Model save")
        except Exception as error:  # the model is in its folder, and what became of its rows is still to be said
            failure = failure or error
    return Outcome(found, measuring.verdict, lines, failure) if is_first else None


def _merge_and_measure(config: Any, tokenizer: Any, datasets: dict[str, Any]) -> dict[str, Any]:
    """Writes the merged model, and measures its files: as they are, and with their weights in four bits.

    Returns:
        Probability of each set of rows by `MERGED` and `IN_4BIT`; of the latter, why it could not be measured.
    """
    import gc

    from egup_trainer.audit.quantization import Bits, quantized_copy
    from egup_trainer.modeling.loading import load_model
    from egup_trainer.modeling.merging import save_merged
    from egup_trainer.modeling.probability import probabilities_of

    gc.collect()  # frees the memory of the trainer
    folder, kwargs = Path(config.output_dir) / MERGED, config.model_init_kwargs
    save_merged(config.output_dir, folder, **kwargs)
    tokenizer.save_pretrained(folder)
    loading = {"trust_remote_code": kwargs.get("trust_remote_code", False), "dtype": kwargs.get("dtype") or "float32"}
    model = load_model(str(folder), **loading).to(config.device)
    measure = {"seed": config.seed, "batch_size": config.per_device_eval_batch_size}
    found: dict[str, Any] = {MERGED: probabilities_of(model, tokenizer, datasets, **measure)}
    try:
        found[IN_4BIT] = probabilities_of(quantized_copy(model, Bits.FOUR), tokenizer, datasets, **measure)
    except (ImportError, ModelError, RuntimeError, ValueError) as error:
        found[IN_4BIT] = f"not measured: {error}"
    return found


def check_flags(row_args: RowArguments, config: Any, model_config: Any) -> None:
    """Raises `ConfigError` for flags that contradict each other or have nothing to act on."""
    from egup_trainer.config_checks import refuse_to_evaluate_nothing
    from egup_trainer.modeling.loading import is_adapter
    from egup_trainer.setup_check import try_setup

    if row_args.merge and not model_config.use_peft and not is_adapter(model_config.model_name_or_path):
        raise ConfigError(
            got="--merge without an adapter",
            expected="an adapter to merge into its base model; without one, the saved model stands alone already",
            fix="leave out --merge, or add --use_peft",
        )
    check_model_flags(config, model_config, *filter(None, [config.proxy_model, row_args.retrained_model]))
    refuse_to_evaluate_nothing(config, has_rows=bool(row_args.eval or row_args.eval_suite))
    check_follow_up(row_args, config, model_config)
    if config.push_to_hub:
        _check_hub(config)
    try_setup(config)


def check_model_flags(config: Any, model_config: Any, *other_models: str) -> None:
    """Raises `ConfigError` for a model that cannot be trained as the flags ask, or an output folder in its way.

    The output folder may not lie in the way of `other_models` that are read, either.
    """
    from egup_trainer.modeling.loading import is_adapter
    from egup_trainer.preparation import check_output_folder, refuse_detours

    if not model_config.use_peft and not is_adapter(model_config.model_name_or_path):
        for name in ("load_in_4bit", "load_in_8bit"):
            if getattr(model_config, name):
                raise ConfigError(
                    got=f"--{name} without an adapter",
                    expected="an adapter to train, since quantized weights cannot be trained",
                    fix="add --use_peft",
                )
    check_output_dir(config.output_dir)
    with one_line_write_errors(f"--output_dir {config.output_dir}"):
        refuse_detours(Path(config.output_dir))
    for model in (model_config.model_name_or_path, *other_models):
        check_output_folder(Path(model), Path(config.output_dir))
    for option in fields(model_config):
        unused = option.name.startswith("lora_") and not model_config.use_peft
        if unused and getattr(model_config, option.name) != option.default:
            refuse_alone(option.name, "use_peft")


def _check_hub(config: Any) -> None:
    """Raises `ConfigError` if the trained model could not be pushed to the hub as the flags ask."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(config.hub_model_id or "model")
        HfApi(token=config.hub_token).whoami()
    except Exception as error:  # from the check of the name or the token, or from any layer of the network
        raise ConfigError(
            got=f"--push_to_hub, and a hub that cannot be used ({first_line(error)})",
            expected="a network, a token, and a name of the form owner/name",
            fix="log in (`hf auth login`), set --hub_token or --hub_model_id, or leave out --push_to_hub",
        ) from error


def _make_trainer(row_args: RowArguments, config: Any, model_config: Any) -> tuple[Any, dict[str, str]]:
    """The trainer, and the sources of the rows that it measures."""
    from egup_trainer.cli.formats import refuse_other_format
    from egup_trainer.egup import EGUPTrainer
    from egup_trainer.evaluation.callback import SuiteCallback
    from egup_trainer.modeling.loading import lora_config, model_init_kwargs
    from egup_trainer.preparation import prepare_tokenizer

    model = model_config.model_name_or_path
    config.model_init_kwargs = model_init_kwargs(model_config, config.use_cpu) | (config.model_init_kwargs or {})
    tokenizer = prepare_tokenizer(None, model, config)
    rows: dict[str, Any] = {
        f"{name}_dataset": row_args.read(source)
        for name in ("forget", "retain", "eval")
        if (source := getattr(row_args, name)) is not None
    }
    forget = rows["forget_dataset"]
    suite, suite_options = _suite_in_training(row_args, config, tokenizer)
    if suite is not None and "eval_dataset" not in rows:
        rows["eval_dataset"] = _eval_rows_of(suite)
    earlier = read_earlier(model, row_args.earlier_forget, rows, config, row_args)
    if writes_proxies(row_args, config):  # which takes long: what is wrong with the other rows is found before
        rows |= _prepared(rows, tokenizer, config)
    row_args.proxy = _proxies(row_args, config, model_config)
    if row_args.proxy is not None:
        rows["proxy_dataset"] = row_args.read(row_args.proxy)
    adapter = lora_config(model_config)
    with library_errors():
        trainer = EGUPTrainer(model, config, processing_class=tokenizer, peft_config=adapter, **rows)
    if config.verdict:
        refuse_other_format(trainer, forget)
    if suite is not None:
        trainer.add_callback(SuiteCallback(trainer, suite, **suite_options))
    measuring = trainer.measuring
    sources = {name: getattr(row_args, name) for name in measuring.datasets}
    sources |= {name: each[0] for name, each in earlier.items()}
    measuring.datasets |= {name: each[1] for name, each in earlier.items()}
    if not config.verdict:
        trainer.add_callback(measuring)
    return trainer, sources


def _suite_in_training(row_args: RowArguments, config: Any, tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    """The suite to run during training, or None, and options of its callback: the results to compare with, and texts.

    Raises:
        ConfigError: flags do not fit each other.
        DataError: the retrained model's results cannot be read, or are not of the suite.
    """
    from egup_trainer.evaluation.evaluation import read_evaluation
    from egup_trainer.evaluation.relative import check_relations
    from egup_trainer.evaluation.rows import texts_of
    from egup_trainer.evaluation.run import plan_of
    from egup_trainer.evaluation.scoring import ScoringOptions

    suite = _suite(row_args, config)
    retrained = None if row_args.retrained is None else read_evaluation(row_args.retrained)
    texts = None if suite is None else texts_of(suite.row_sets, tokenizer, not config.disable_tqdm)
    if suite is not None and texts is not None and retrained is not None:
        check_relations(plan_of(suite, ScoringOptions(), "the model in training", texts), retrained=retrained)
    _check_best(config, suite, retrained)
    return suite, {"retrained": retrained, "texts": texts}


def _eval_rows_of(suite: Any) -> list[Any]:
    """The rows of a suite on which eval_loss is reported: a Trainer evaluates only with rows of its own."""
    from egup_trainer.data.schema import Row

    chosen = next((each for each in suite.row_sets if each.name == "retain"), suite.row_sets[0])
    return [Row(row.prompt, row.answer) for row in chosen.rows]


def _prepared(rows: dict[str, Any], tokenizer: Any, config: Any) -> dict[str, Any]:
    """Forget and retain rows, tokenized and checked as the trainer does once it has proxies."""
    from egup_trainer.losses.registry import make_forget_loss
    from egup_trainer.preparation import prepare_rows
    from egup_trainer.trainer import make_components

    components = make_components(config, make_forget_loss(config), has_proxies=True)
    ready = [each for each in components if not each.needs.proxy_rows]
    found = prepare_rows(rows["forget_dataset"], rows.get("retain_dataset"), None, ready, tokenizer, config)
    prepared = {"forget_dataset": found.forget, "retain_dataset": found.retain}
    return {name: each for name, each in prepared.items() if each is not None}


def _proxies(row_args: RowArguments, config: Any, model_config: Any) -> str | None:
    """Source of the proxies, which the model writes where none are given but needed, if it can."""
    from egup_trainer.losses.registry import make_forget_loss

    if not writes_proxies(row_args, config):
        return row_args.proxy
    try:
        return auto_proxies(row_args, config, model_config)
    except (TooFewProxiesError, UnaskableRowsError, TooFewPositionsError, MissingExtraError) as error:
        if row_args.proxy == AUTO:
            raise
        config.objective = _WITHOUT_PROXIES
        config.adopt(make_forget_loss(config))
        if config.should_save:
            show(lines=[f"No --proxy was given, and the model cannot write any ({error.got})."])
        return None


def _suite(row_args: RowArguments, config: Any) -> Any:
    """The suite to run during training, or None."""
    if row_args.eval_suite is None:
        of_audit = _AUDIT_FLAGS if row_args.audit else ()
        for name in SUITE_FLAGS:
            if getattr(row_args, name) is not None and row_args.report is None and name not in of_audit:
                refuse_alone(name, "eval_suite")
        return None
    spec = suite_named(row_args.eval_suite, "eval_suite")
    if config.eval_strategy.value == "no":
        raise ConfigError(
            got=f"eval_suite={row_args.eval_suite} with eval_strategy=no",
            expected="steps or epoch",
            fix="set --eval_strategy steps --eval_steps N",
        )
    is_own = "forget" in spec.parameters  # other suites have rows of their own
    suite = make_suite(
        spec,
        row_args,
        forget=row_args.forget if is_own else None,
        retain=row_args.retain if is_own else None,
        template=config.template,
        drop_overlap=config.drop_overlap,
        max_length=MAX_LENGTH,
    )
    return suite.reading(config.template, config.on_long_row)


def _check_best(config: Any, suite: Any, retrained: Any) -> None:
    """Raises `ConfigError` for a `metric_for_best_model` that no evaluation will compute."""
    from egup_trainer.evaluation.suites.suite import metric_names

    if config.metric_for_best_model is None:
        return
    names = [] if suite is None else metric_names(suite)
    known = ["loss", *names, *(f"{name}_distance" for name in names if retrained is not None)]
    if config.metric_for_best_model.removeprefix("eval_") not in known:
        raise ConfigError(
            got=f"metric_for_best_model={config.metric_for_best_model}",
            expected="loss, or a metric of the suite" if names else "loss, the only metric without an --eval_suite",
            fix=did_you_mean(config.metric_for_best_model, known, "set --metric_for_best_model"),
        )


def resume_from(config: Any) -> Any:
    """What `Trainer.train` takes: the folder of a checkpoint, True for the last complete one, or None.

    Raises:
        StateError: the checkpoint that is named is not there.
    """
    resume = config.resume_from_checkpoint
    if resume is None or resume.lower() in ("true", "false"):
        return True if resume and resume.lower() == "true" else None
    if not Path(resume).is_dir():
        raise StateError(got=f"no folder at {resume}", expected="a checkpoint", fix="check --resume_from_checkpoint")
    return resume


def _closing_lines(trainer: Any, seconds: float) -> list[str]:
    """The lines to print below the numbers."""
    from egup_trainer.components.step_log import peak_memory_gb

    what = "Adapter" if trainer.model.__class__.__name__.startswith("Peft") else "Model"
    lines = [
        f"{trainer.state.global_step} steps, {seconds:.0f} s, peak memory {peak_memory_gb():.2f} GB",
        f"{what} and tokenizer saved to {trainer.args.output_dir}",
    ]
    if trainer.own_answers:
        lines.append(f"{trainer.own_answers} answers of the model's own were forgotten beside the rows")
    if trainer.scan_folder.is_dir():
        lines.append(f"Features of the forget rows kept for further runs in {trainer.scan_folder}")
    return lines


def print_summary(found: dict[str, Any], lines: list[str]) -> None:
    """A table with one column per measurement, then the lines."""
    from egup_trainer.report.numbers import format_number

    measured = {when: values for when, values in found.items() if isinstance(values, dict)}
    table = make_table("Probability of answers", ("rows", *measured))
    for name in found[AFTER]:
        table.add_row(name, *(format_number(values[name]) for values in measured.values()))
    lines = [*lines, *(f"{when}: {text}" for when, text in found.items() if when not in measured)]
    show(table, lines=lines)


SHOWN = (
    *("retain", "proxy", "proxy_model", "holdout", "columns", "drop_overlap", "report", "audit", "verdict"),
    *("objective", "strength", "learning_rate", "num_train_epochs", "use_peft", "lora_r", "load_in_4bit", "merge"),
    *("output_dir", "overwrite_output_dir", "per_device_train_batch_size", "use_cpu", "resume_from_checkpoint"),
)
"""Flags on the first screen of the help."""

COMMAND = Command(
    "unlearn",
    "make a model forget rows and keep others",
    run,
    options=lambda: [RowArguments, *training_options()],
    required=("model_name_or_path", "forget"),
    shown=SHOWN,
)
