"""Earlier requests of a model that is unlearned again: their rows are scored with the others."""

from pathlib import Path
from typing import Any

from egup_trainer.cli.run_file import earlier_name
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.records.judgments import AFTER
from egup_trainer.records.schema import LEDGER_NAME, RUN_NAME


def read_earlier(
    model: str, given: list[str] | None, rows: dict[str, Any], config: Any, row_args: Any
) -> dict[str, tuple[str, Any]]:
    """Source and tokenized rows of the model's earlier requests, by `earlier_name`.

    They are those of `given` (--earlier_forget), or of the sources that the record beside the model names, if they
    still exist. The retain rows among the `rows` of this run are tokenized in place.

    Raises:
        ConfigError: rows were given, and the model has no ledger.
        DataError: rows were given that belong to no request in the ledger, or that are also in the retain set, which
            would teach them again.
    """
    from egup_trainer.data.layouts import parse_columns
    from egup_trainer.data.overlap import keep_apart
    from egup_trainer.data.sources import load_rows
    from egup_trainer.preparation import prepare_dataset, tokenizer_of
    from egup_trainer.records.facts import fingerprint
    from egup_trainer.records.io import read_ledger, read_secrets

    numbers = {request.fingerprint: number for number, request in enumerate(read_ledger(model), start=1)}
    secrets = read_secrets(model)
    if given and not numbers:
        raise ConfigError(
            got=f"--earlier_forget for {model}, which has no {LEDGER_NAME}",
            expected="a model that was unlearned before",
            fix="leave out --earlier_forget",
        )
    if given and not secrets:
        raise ConfigError(
            got=f"--earlier_forget for {model} without {RUN_NAME}",
            expected="that file of its last run, which holds the secrets that key the fingerprints in the ledger",
            fix=f"copy it into {model}, or leave out --earlier_forget",
        )
    found: dict[int, tuple[str, Any]] = {}
    tokenizer = tokenizer_of(model, config) if numbers else None
    sources, columns = (given, row_args.columns) if given is not None else _recorded_sources(model, row_args.data_dir)
    for source in sources:
        rows_of_source = load_rows(source, row_args.data_dir, parse_columns(columns))
        dataset = prepare_dataset(rows_of_source, "earlier forget set", tokenizer, config)
        prints = [fingerprint(dataset, secret) for secret in secrets]
        requests = [numbers[each] for each in prints if each in numbers]
        found |= dict.fromkeys(requests, (source, dataset))
        if given and not requests:
            raise DataError(
                got=f"rows of no earlier request in {source}",
                expected=f"those of a request in the ledger: {', '.join(numbers)}",
                fix="give as --earlier_forget all rows of an earlier request, in their order",
            )
    earlier = {earlier_name(number): found[number] for number in sorted(found)}
    if earlier and "retain_dataset" in rows:
        retain = prepare_dataset(rows["retain_dataset"], "retain set", tokenizer, config)
        for name, (_, dataset) in earlier.items():
            retain = keep_apart(dataset, f"{name} forget set", retain, "retain set", drop=config.drop_overlap)
        rows["retain_dataset"] = retain
    return earlier


def _recorded_sources(model: str, data_dir: str | None) -> tuple[list[str], str | None]:
    """The sources of all forget rows in the record of the model's last run, if they still exist; and their columns."""
    from egup_trainer.records.io import find_run, is_merged

    folder = Path(model).parent if is_merged(model) else Path(model)
    run = find_run(folder / RUN_NAME)
    if run is None:
        return [], None
    named = dict.fromkeys(source for name, source in run.sources.items() if name not in ("retain", "proxy"))
    here = [source for source in named if Path(source).exists() or (source.startswith("tofu:") and data_dir)]
    return here, run.columns


def lines_on_earlier(model: str, found: dict[str, Any]) -> list[str]:
    """A line for each earlier request of a model: how the probability of its rows changed, or that it lacks them."""
    from egup_trainer.records.io import last_measured, read_ledger
    from egup_trainer.report.numbers import format_number

    requests, lines = read_ledger(model), []
    for index, request in enumerate(requests):
        now, then = found[AFTER].get(earlier_name(index + 1)), last_measured(requests, index)
        if now is None:
            says = (
                "its rows were not found, or are not read as they were then; give them as --earlier_forget, with the "
                "same markers, to see whether they come back"
            )
        elif then is None:
            says = f"probability {format_number(now)} now"
        else:
            says = f"probability {format_number(then)} then, {format_number(now)} now ({now - then:+.2g})"
        lines.append(f"Earlier request {index + 1} ({request.date}, fingerprint {request.fingerprint}): {says}")
    return lines
