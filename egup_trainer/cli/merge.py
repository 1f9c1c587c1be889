"""`egup merge`: writes an adapter and its base model as one stand-alone model, later than the run that trained it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egup_trainer.cli.command import Command, library_errors, model_config
from egup_trainer.cli.flags import Arguments, check_output_dir, flag, refuse_lora_flags, refuse_several_processes
from egup_trainer.cli.run_file import load_as_recorded, write_merged_records
from egup_trainer.errors import ConfigError
from egup_trainer.records.judgments import MERGED


@dataclass
class AdapterArguments(Arguments):
    """Where the merged model goes. The adapter is the folder `model_name_or_path`."""

    help_title = "Merging"

    output_dir: str | None = flag("Folder for the merged model. By default `merged` in the adapter's folder.")
    overwrite_output_dir: bool = flag("Replace the finished model that the folder holds.", False)


def run(args: AdapterArguments, model_config: Any) -> None:
    """Merges, and writes the model with its tokenizer, and with record, ledger and card if the adapter has a record.

    The base model is loaded as in the run that trained the adapter, if its record is there and no flag says otherwise.
    """
    adapter = Path(model_config.model_name_or_path)
    output = Path(args.output_dir or adapter / MERGED)
    _check(adapter, output, model_config)
    from accelerate import PartialState

    from egup_trainer.files import refuse_unfinished
    from egup_trainer.modeling.loading import load_tokenizer, model_init_kwargs
    from egup_trainer.modeling.merging import save_merged
    from egup_trainer.output_folder import alone_in, appearing_together, mark_unfinished, refuse_finished
    from egup_trainer.records.io import find_run, read_ledger, read_record
    from egup_trainer.records.schema import RUN_NAME

    refuse_several_processes("egup merge", PartialState().num_processes)
    refuse_unfinished(adapter)
    tokenizer, record = load_tokenizer(str(adapter)), read_record(adapter)
    if (run := find_run(adapter / RUN_NAME)) is not None:
        load_as_recorded(model_config, run.loading)
    with alone_in(output):
        if not args.overwrite_output_dir:
            refuse_finished(output)
        mark_unfinished(output)
        with library_errors(), appearing_together(output) as folder:
            save_merged(adapter, folder, **model_init_kwargs(model_config))
            tokenizer.save_pretrained(folder)
            if record is not None:
                write_merged_records(record, read_ledger(adapter), folder, adapter.resolve().name)
    print(f"Merged model in {output}. Its files were not measured: see `egup evaluate`")


def _check(adapter: Path, output: Path, model_config: Any) -> None:
    """Raises `ConfigError` if there is no adapter, or if the merged model could replace it or its base model."""
    from egup_trainer.modeling.loading import base_folder, is_adapter
    from egup_trainer.preparation import check_output_folder

    refuse_lora_flags(model_config)
    if not is_adapter(str(adapter)):
        raise ConfigError(
            got=f"--model_name_or_path {adapter}, which is not the folder of an adapter",
            expected="an adapter to merge into its base model; another model stands alone already",
            fix="name the output folder of a run with --use_peft",
        )
    check_output_dir(output)
    if output.resolve() == adapter.resolve():
        raise ConfigError(
            got=f"--output_dir {output}, the folder of the adapter",
            expected="another folder, so that the adapter is kept",
            fix="leave out --output_dir, or choose another one",
        )
    for base in base_folder(adapter):
        check_output_folder(base, output)


COMMAND = Command(
    "merge",
    "write an adapter and its base model as one stand-alone model",
    run,
    options=lambda: [AdapterArguments, model_config()],
    required=("model_name_or_path",),
    shown=("output_dir", "overwrite_output_dir", "dtype", "load_in_4bit"),
)
