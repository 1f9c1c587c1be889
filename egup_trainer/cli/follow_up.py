"""What `egup unlearn --report` and `--audit` do once the model is saved: what other commands do, in the same process.

Start-up takes seconds, most of them for imports, and is paid once. Each step prints the command that repeats it.
"""

import json
import shlex
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from egup_trainer.cli.command import load_command
from egup_trainer.cli.compare import check_report
from egup_trainer.cli.flags import refuse_alone, refuse_several_processes
from egup_trainer.cli.proxy import AUTO
from egup_trainer.cli.run_file import LOADING
from egup_trainer.cli.suites import SUITE_FLAGS, suite_named
from egup_trainer.errors import ConfigError, EgupError
from egup_trainer.records.redaction import credentials_in, words_without

FOLDER = "_evaluation"
"""Folder below the output folder with the results of each step."""

_AUDIT = "audit.json"
_SHARED = (
    *("data_dir", "columns", "user_marker", "assistant_marker", "use_cpu", "disable_tqdm", "drop_overlap"),
    *("template_date", "system_prompt", "template_kwargs", "max_new_tokens", "on_long_row"),
)
_LOADING = (*LOADING, "attn_implementation", "model_revision")
_OF_SOURCE = ("subfolder", "revision", "code_revision", "variant", "gguf_file")
"""Arguments of from_pretrained that say which files of the model before are read; the model after has its own."""
_PLACEMENT = ("device_map", "max_memory", "offload_folder", "offload_buffers", "offload_state_dict")
"""Arguments that offload weights, whose gradients an audit needs."""
_CUSTOM = "custom"
_WRITTEN_OUT = ("muse", "wmdp")
"""Suites whose prompts are written out in their benchmarks, so that they refuse a system prompt."""


def check_follow_up(args: Any, config: Any, model_config: Any) -> None:
    """Raises an error for whatever would end one of the steps, as far as it can be known before the model is trained.

    Args:
        args, config, model_config: as in `egup unlearn`.

    Raises:
        ConfigError: flags do not fit each other, or a step's own check refuses them, or an extra is missing.
        DataError: rows or results cannot be read.
        StateError: a file cannot be written.
    """
    if args.evaluate is not None:
        suite_named(args.evaluate, "evaluate")
        if args.report is None:
            refuse_alone("evaluate", "report")
    if args.retrained_model is not None and not args.audit:
        refuse_alone("retrained_model", "audit")
    if args.report is None and not args.audit:
        return
    refuse_several_processes("--report or --audit", config.world_size)
    if args.report is not None:
        check_report(Path(args.report), [args.forget, args.retain, args.proxy, args.retrained], "--report")
    of_source = sorted((_given_loading(config, model_config) or {}).keys() & set(_OF_SOURCE))
    if args.audit and of_source:
        raise ConfigError(
            got=f"--audit with {', '.join(of_source)} among --model_init_kwargs",
            expected="a model before unlearning that `egup audit --model_before` finds by its name alone",
            fix="leave out --audit, and run `egup audit` afterwards on copies of the models",
        )
    given = replace(args, proxy=None) if args.proxy == AUTO else args  # the proxies are still to be written
    steps = dict(reversed(_steps(given, config, model_config)))  # of two evaluations the first: both have the same rows
    for name, words in steps.items():
        command = load_command(name)
        try:
            command.check(*command.parse(words))
        except EgupError as error:
            asked = "--audit" if name == "audit" else "--report"
            raise type(error)(
                got=f"{error.got} (`egup {name}`, which {asked} runs)", expected=error.expected, fix=error.fix
            ) from error


def follow_up(args: Any, config: Any, model_config: Any) -> None:
    """Evaluates the model before and after, audits it and writes the report, as far as the flags ask for it.

    If a step fails, the commands of the later ones are printed, so that no flag has to be looked up. A failed audit
    alone does not keep the report from being written.
    """
    steps = _steps(args, config, model_config)
    folder, failed = Path(config.output_dir) / FOLDER, None
    if steps:
        folder.mkdir(parents=True, exist_ok=True)
    for number, (name, words) in enumerate(steps, start=1):
        if name == "compare" and failed and not (folder / _AUDIT).exists():
            at = words.index("--audit")
            words = [*words[:at], *words[at + 2 :]]
        print(f"\n{_shown(name, words, config)}")
        if name == "audit":
            (folder / _AUDIT).unlink(missing_ok=True)  # of an earlier model, should this audit fail
        try:
            load_command(name).main(words)
        except BaseException as error:
            if name != "audit" or not isinstance(error, EgupError):
                _print_commands(steps[number:], config)
                raise
            failed = error
    if failed:
        raise failed


def _print_commands(steps: list[tuple[str, list[str]]], config: Any) -> None:
    for step in steps:
        print(f"Not run: {_shown(*step, config)}")


def _steps(args: Any, config: Any, model_config: Any) -> list[tuple[str, list[str]]]:
    """The commands of the steps by name, each with the words that follow it."""
    folder = Path(config.output_dir) / FOLDER
    before, after, audit = (folder / name for name in ("before.json", "after.json", _AUDIT))
    shared = {name: getattr(args, name, getattr(config, name, None)) for name in _SHARED}
    shared |= {name: getattr(model_config, name) for name in _LOADING}
    shared["model_init_kwargs"] = loading = _given_loading(config, model_config)
    own_loading = _without(loading, _OF_SOURCE)
    shared["per_device_eval_batch_size"] = config.per_device_eval_batch_size
    rows = {name: getattr(args, name) for name in ("forget", "retain", "holdout", "neighbor")}
    rows["holdout"] = rows["holdout"] or args.proxy
    models = {before: model_config.model_name_or_path, after: config.output_dir}
    steps = []
    if args.report is not None:
        suite = args.evaluate or _CUSTOM
        of_suite = {name: getattr(args, name) for name in SUITE_FLAGS}
        if suite == _CUSTOM:
            of_suite = {**rows, "retrained": args.retrained}
        else:
            of_suite["drop_overlap"] = None  # of the run's own rows
        for output, model in models.items():
            flags = {"model_name_or_path": model, "suite": suite, "output": output, "name": output.stem, **shared}
            flags |= {"before": before if output == after else None, **of_suite}
            if output == after:
                flags["model_init_kwargs"] = own_loading
            if suite in _WRITTEN_OUT:
                flags["system_prompt"] = None
            steps.append(("evaluate", _words("evaluate", flags)))
    if args.audit:
        compared = {"model_before": models[before], "retrained_model": args.retrained_model}
        flags = {"model_name_or_path": config.output_dir, **compared, **rows, "output": audit}
        flags |= {"name": after.stem, **shared, "model_init_kwargs": _without(own_loading, _PLACEMENT)}
        steps.append(("audit", _words("audit", flags)))
    if args.report is not None:
        flags = {"retrained": args.retrained, "output": args.report, "audit": audit if args.audit else None}
        steps.append(("compare", [str(before), str(after), *_words("compare", flags)]))
    return steps


def _without(loading: dict[str, Any] | None, names: Iterable[str]) -> dict[str, Any] | None:
    return {name: value for name, value in (loading or {}).items() if name not in names} or None


def _given_loading(config: Any, model_config: Any) -> dict[str, Any] | None:
    """The arguments of from_pretrained that the user gave, without those that flags of a model stand for."""
    from egup_trainer.modeling.loading import model_init_kwargs

    of_flags = model_init_kwargs(model_config, config.use_cpu)
    given = {name: value for name, value in (config.model_init_kwargs or {}).items() if of_flags.get(name) != value}
    return given or None


def _words(command: str, flags: dict[str, Any]) -> list[str]:
    """Flags as the command line has them, without those that the command does not have, or has anyway by default.

    Example:
        >>> _words("evaluate", {"retain": "r.jsonl", "use_cpu": True, "columns": None, "show_examples": 0, "seed": 1})
        ['--retain', 'r.jsonl', '--use_cpu', 'true']
        >>> _words("evaluate", {"user_marker": "-Q: "})  # would be read as a flag
        ['--user_marker=-Q: ']
    """
    defaults = {each.name: each.default for options in load_command(command).options() for each in fields(options)}
    texts = {name: _text(value) for name, value in flags.items()}
    given = [name for name, value in flags.items() if value is not None and value is not False and name in defaults]
    needed = [name for name in given if texts[name] != _text(defaults[name])]
    return [
        word
        for name in needed
        for word in ([f"--{name}={texts[name]}"] if texts[name].startswith("-") else [f"--{name}", texts[name]])
    ]


def _text(value: Any) -> str:
    if value is True:
        return "true"
    return json.dumps(value) if isinstance(value, dict) else str(getattr(value, "value", value))


def _shown(name: str, words: list[str], config: Any) -> str:
    return f"$ egup {name} {shlex.join(words_without(credentials_in(config.model_init_kwargs), words))}"
