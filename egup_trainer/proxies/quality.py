"""What came of the attempts, in numbers: as a table and as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egup_trainer.proxies.filters import Rejection
from egup_trainer.proxies.judge import Verdict


def quality_path(output: Path) -> Path:
    """Where the numbers of `output` stand: `proxies.quality.json` beside `proxies.jsonl`."""
    return output.with_suffix(".quality.json")


@dataclass(frozen=True)
class Quality:
    """Numbers of a run.

    Args:
        writer: name of the model that wrote.
        asked_for: rows wanted.
        attempts: texts written.
        kept: proxies among them.
        rejected: attempts by the reason against them.
        proxy_nll: mean l of the proxies under the model before unlearning, nats per token; None without proxies.
        forget_nll: mean l of the forget rows under it, nats per token.
        digest: of settings, rows and weights.
    """

    writer: str
    asked_for: int
    attempts: int
    kept: int
    rejected: dict[Rejection, int]
    proxy_nll: float | None
    forget_nll: float
    digest: str

    @classmethod
    def of(
        cls, verdicts: Sequence[Verdict], *, writer: str, asked_for: int, forget_nll: float, digest: str
    ) -> "Quality":
        """The numbers of the verdicts."""
        counts = Counter(verdict.rejection for verdict in verdicts)
        losses = [verdict.nll for verdict in verdicts if verdict.nll is not None]
        return cls(
            writer=writer,
            asked_for=asked_for,
            attempts=len(verdicts),
            kept=counts[None],
            rejected={reason: counts[reason] for reason in Rejection},
            proxy_nll=sum(losses) / len(losses) if losses else None,
            forget_nll=forget_nll,
            digest=digest,
        )

    @property
    def warning(self) -> str | None:
        """What to know before using the proxies, or None."""
        if self.proxy_nll is None or self.proxy_nll > self.forget_nll:
            return None
        return (
            f"The proxies are no further from the model (l {self.proxy_nll:.2f}) than the forget rows "
            f"({self.forget_nll:.2f}): a boundary from them asks for no forgetting. Either the model does not know the "
            "forget rows, or its own texts are too likely to it: take rows of a holdout set instead."
        )

    def to_json(self) -> str:
        """The numbers as JSON."""
        numbers: dict[str, Any] = asdict(self)
        numbers["rejected"] = {reason.name.lower(): count for reason, count in self.rejected.items()}
        return json.dumps({**numbers, "warning": self.warning}, indent=1) + "\n"


def quality_table(quality: Quality) -> Any:
    """The numbers as a `rich` table."""
    from rich.table import Table

    table = Table(title="Proxies", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("asked for", str(quality.asked_for))
    table.add_row("attempts", str(quality.attempts))
    table.add_row("kept", str(quality.kept), end_section=True)
    for reason, count in quality.rejected.items():
        table.add_row(f"rejected: {reason.value}", str(count), end_section=reason is list(Rejection)[-1])
    table.add_row("mean l of the proxies", "none" if quality.proxy_nll is None else f"{quality.proxy_nll:.2f}")
    table.add_row("mean l of the forget rows", f"{quality.forget_nll:.2f}")
    return table
