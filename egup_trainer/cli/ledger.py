"""`egup ledger`: the requests to forget that a model has been through, and whether their rows came back."""

from dataclasses import dataclass
from pathlib import Path

from egup_trainer.cli.command import Command
from egup_trainer.cli.flags import Arguments, positional
from egup_trainer.cli.terminal import make_table, show
from egup_trainer.errors import ConfigError


@dataclass
class LedgerArguments(Arguments):
    """The model."""

    model: Path = positional("The folder of a model that was unlearned.", metavar="MODEL")


def run(args: LedgerArguments) -> None:
    """Prints one line per request, the first request first.

    Raises:
        ConfigError: the folder has no ledger.
    """
    from egup_trainer.records.io import last_measured, read_ledger
    from egup_trainer.records.judgments import AFTER, BEFORE
    from egup_trainer.records.schema import LEDGER_NAME
    from egup_trainer.report.numbers import format_number

    requests = read_ledger(args.model)
    if not requests:
        raise ConfigError(
            got=f"{args.model}, which has no {LEDGER_NAME}",
            expected="the folder of a model that `egup unlearn` or a trainer of this package saved",
            fix="check the path",
        )
    headings = ("", "date", "rows", "fingerprint", "objective", "steps", "verdict", "before", "after", "last measured")
    texts = ("date", "fingerprint", "objective", "verdict")
    table = make_table(f"Requests to forget: {args.model}", headings, left=texts)
    for index, request in enumerate(requests):
        facts = (index + 1, request.date, request.rows, request.fingerprint, request.objective, request.steps)
        numbers = [request.probability.get(BEFORE), request.probability.get(AFTER), last_measured(requests, index)]
        table.add_row(*map(str, facts), request.status or "-", *map(format_number, numbers))
    line = "before, after: probability of the answers before and after the request's own run; last measured: after the "
    show(table, lines=[line + "latest run that had the rows."])


COMMAND = Command(
    "ledger",
    "show the requests to forget that a model has been through",
    run,
    options=lambda: [LedgerArguments],
    uses_models=False,
)
