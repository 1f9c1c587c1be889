"""What `egup unlearn --report` and `--audit` do once the model is saved: what other commands do, in the same process.

Start-up takes seconds, most of them for imports, and is paid once. Each step prints the command that repeats it.
"""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from egup_trainer.cli.command import load_command
from egup_trainer.cli.flags import check_output, refuse_alone, refuse_several_processes
from egup_trainer.cli.suites import SUITE_FLAGS

FOLDER = "_evaluation"
"""Folder below the output folder with the results of each step."""

_SHARED = (
    *("data_dir", "columns", "user_marker", "assistant_marker", "use_cpu", "disable_tqdm", "drop_overlap"),
    "max_new_tokens",
)
_LOADING = ("dtype", "attn_implementation", "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type")
_CUSTOM = "custom"


def check_follow_up(args: Any, config: Any) -> None:
    """Raises `ConfigError` for flags of the steps that cannot work, before any work is done for them.

    Args:
        args: the `RowArguments` of `egup unlearn`.
        config: its `EGUPConfig`.
    """
    if args.evaluate is not None and args.report is None:
        refuse_alone("evaluate", "report")
    if args.report is None and not args.audit:
        return
    refuse_several_processes("--report or --audit", config.world_size)
    if args.report is not None:
        check_output(Path(args.report), ".html", '<meta name="generator" content="egup_trainer">')


def follow_up(args: Any, config: Any, model_config: Any) -> None:
    """Evaluates the model before and after, audits it and writes the report, as far as the flags ask for it."""
    folder = Path(config.output_dir) / FOLDER
    before, after, audit = (folder / f"{name}.json" for name in ("before", "after", "audit"))
    if args.report is not None or args.audit:
        folder.mkdir(parents=True, exist_ok=True)
    shared = _words({name: getattr(args, name, getattr(config, name, None)) for name in _SHARED})
    batch = ["--per_device_eval_batch_size", str(config.per_device_eval_batch_size)]
    loading = _words({name: getattr(model_config, name) for name in _LOADING})
    holdout = args.holdout or args.proxy
    rows = _words({"forget": args.forget, "retain": args.retain, "holdout": holdout, "neighbor": args.neighbor})
    models = {before: model_config.model_name_or_path, after: config.output_dir}
    if args.report is not None:
        suite = args.evaluate or _CUSTOM
        of_suite = rows if suite == _CUSTOM else _words({name: getattr(args, name) for name in SUITE_FLAGS})
        for output, model in models.items():
            beside = _words({"before": str(before) if output == after else None})
            words = ["--model_name_or_path", str(model), "--suite", suite, "--output", str(output)]
            _run("evaluate", [*words, "--name", output.stem, *of_suite, *beside, *shared, *loading, *batch])
    if args.audit:
        words = ["--model_name_or_path", str(config.output_dir), "--model_before", str(models[before])]
        _run("audit", [*words, *rows, "--output", str(audit), "--name", after.stem, *shared, *loading, *batch])
    if args.report is not None:
        words = [str(before), str(after), *_words({"retrained": args.retrained}), "--output", args.report]
        _run("compare", [*words, *_words({"audit": str(audit) if args.audit else None})])


def _run(name: str, words: list[str]) -> None:
    """Runs another command with those of the flags that it has and whose values are not its defaults."""
    command = load_command(name)
    defaults = {each.name: each.default for options in command.options() for each in fields(options)}
    words = _needed(words, defaults)
    print(f"\n$ egup {name} {shlex.join(words)}")
    command.main(words)


def _words(values: dict[str, Any]) -> list[str]:
    """Flags and their values as the command line has them; switches that are off, and None, are left out.

    Example:
        >>> _words({"retain": "r.jsonl", "use_cpu": True, "columns": None, "disable_tqdm": False})
        ['--retain', 'r.jsonl', '--use_cpu', 'true']
    """
    given = ((name, value) for name, value in values.items() if value is not None and value is not False)
    return [word for name, value in given for word in (f"--{name}", "true" if value is True else str(value))]


def _needed(words: list[str], defaults: dict[str, Any]) -> list[str]:
    """The words without flags, each with its value, that a command does not have, or has anyway by default.

    Example:
        >>> _needed(["a.json", "--columns", "x=y", "--output", "o", "--dtype", "float32"], {"output": None})
        ['a.json', '--output', 'o']
        >>> _needed(["--dtype", "float32", "--seed", "1"], {"dtype": "float32", "seed": 0})
        ['--seed', '1']
    """
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    kept = words[:first]
    for flag, value in zip(words[first::2], words[first + 1 :: 2], strict=True):
        name = flag.removeprefix("--")
        if name in defaults and str(defaults[name]) != value:
            kept += [flag, value]
    return kept
