"""`egup retrain`: fine-tunes a base model on the retain rows alone, for an unlearned model to be compared with."""

import time
from dataclasses import dataclass
from typing import Any

from egup_trainer.cli.command import Command, library_errors, model_config
from egup_trainer.cli.flags import SOURCE, SourceArguments, flag
from egup_trainer.cli.unlearn import begin_output, check_model_flags, output_folder, print_summary, resume_from


@dataclass
class RetrainArguments(SourceArguments):
    """Which rows. Each source is a path, `tofu:NAME` or a hub id."""

    help_title = "Data"

    retain: str | None = flag(f"Rows to learn: {SOURCE}.")
    forget: str | None = flag(
        "Source of rows that must not be among them, and are not learned; how likely they are is measured before and "
        "after."
    )
    eval: str | None = flag("Source of rows to report eval_loss on, with --eval_strategy.")


def run(args: RetrainArguments, config: Any, model_config: Any) -> None:
    """Fine-tunes, saves model (or adapter) and tokenizer to `--output_dir`, and prints what became of the rows."""
    from egup_trainer.config_checks import refuse_to_evaluate_nothing

    check_model_flags(config, model_config)
    refuse_to_evaluate_nothing(config, has_rows=bool(args.eval))
    resume = resume_from(config)
    with output_folder(config, resume):
        trainer = _make_trainer(args, config, model_config)
        start = time.perf_counter()
        with library_errors():
            trainer.train(resume_from_checkpoint=resume)
        seconds = time.perf_counter() - start
        trainer.save_model()
    if trainer.is_world_process_zero():
        sets = trainer.measuring.datasets.items()
        lines = [line for name, rows in sets if (line := rows.long_rows_line(name, config.max_length))]
        lines = [f"{trainer.state.global_step} steps, {seconds:.0f} s", f"Saved to {config.output_dir}", *lines]
        print_summary(trainer.measuring.probability, lines)


def _make_trainer(args: RetrainArguments, config: Any, model_config: Any) -> Any:
    from egup_trainer.data.overlap import keep_apart
    from egup_trainer.modeling.loading import lora_config, model_init_kwargs
    from egup_trainer.preparation import prepare_dataset, prepare_tokenizer
    from egup_trainer.retraining import Retrainer

    model = model_config.model_name_or_path
    config.model_init_kwargs = model_init_kwargs(model_config, config.use_cpu) | (config.model_init_kwargs or {})
    tokenizer = prepare_tokenizer(None, model, config)
    rows = {
        name: prepare_dataset(args.read(source), f"{name} set", tokenizer, config)
        for name in ("forget", "retain", "eval")
        if (source := getattr(args, name)) is not None
    }
    eval_rows = rows.pop("eval", None)
    if "forget" in rows:
        rows["retain"] = keep_apart(
            rows["forget"], "forget set", rows["retain"], "retain set", drop=config.drop_overlap
        )
    with library_errors():
        trainer = Retrainer(model, config, rows, tokenizer, eval_rows, lora_config(model_config))
    begin_output(config)
    return trainer


def _options() -> list[Any]:
    from egup_trainer.retraining import RetrainConfig

    return [RetrainArguments, RetrainConfig, model_config()]


COMMAND = Command(
    "retrain",
    "fine-tune a base model on the retain rows alone, to compare an unlearned model with",
    run,
    options=_options,
    required=("model_name_or_path", "retain"),
    shown=(
        *("forget", "columns", "drop_overlap", "learning_rate", "num_train_epochs", "use_peft", "lora_r"),
        *("load_in_4bit", "output_dir", "per_device_train_batch_size", "use_cpu", "resume_from_checkpoint"),
    ),
    description="Fine-tunes a base model, which never saw the forget rows, on the retain rows alone, as "
    "transformers.Trainer does. Its results are those that `egup evaluate` and `egup compare` take as --retrained, and "
    "its folder is the --retrained_model of `egup audit`. Train it as the model to unlearn was trained: any other "
    "difference between the two is measured as well.",
)
