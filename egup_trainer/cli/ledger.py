"""`egup ledger`: the requests to forget that a model has been through, and whether their rows came back."""

from pathlib import Path
from typing import Any

from egup_trainer.cli.common import OneLineParser
from egup_trainer.errors import ConfigError


def main(argv: list[str]) -> None:
    """Prints a line a request.

    Raises:
        ConfigError: the folder has no ledger.
    """
    parser = OneLineParser(
        prog="egup ledger", description="Shows which requests to forget a model has been through, the first first."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="The folder of a model that was unlearned.")
    folder = parser.parse_args(argv).model
    from egup_trainer.records.io import read_ledger
    from egup_trainer.records.schema import LEDGER_NAME

    requests = read_ledger(folder)
    if not requests:
        raise ConfigError(
            got=f"{folder}, which has no {LEDGER_NAME}",
            expected="the folder of a model that `egup unlearn` or a trainer of this package saved",
            fix="check the path",
        )
    _print(requests, folder)


def _print(requests: list[Any], folder: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from egup_trainer.cli.terminal import terminal
    from egup_trainer.records.io import last_measured
    from egup_trainer.records.outcome import AFTER, BEFORE
    from egup_trainer.report.comparison import format_probability

    def shown(value: float | None) -> str:
        return "-" if value is None else format_probability(value)

    table = Table(title=Text(f"Requests to forget: {folder}"), title_justify="left")
    for heading in ("", "date", "rows", "fingerprint", "objective", "steps", "before", "after", "last measured"):
        table.add_column(heading, justify="left" if heading in ("date", "fingerprint", "objective") else "right")
    for place, request in enumerate(requests):
        numbers = [request.probability.get(BEFORE), request.probability.get(AFTER), last_measured(requests, place)]
        facts = [place + 1, request.date, request.rows, request.fingerprint, request.objective, request.steps]
        table.add_row(*(Text(str(fact)) for fact in facts), *map(shown, numbers))
    console = terminal()
    console.print(table)
    console.print(
        "before, after, last measured: probability of the forget rows' answers around their own request, and after the "
        "last request at which they were at hand.",
        soft_wrap=True,
    )
