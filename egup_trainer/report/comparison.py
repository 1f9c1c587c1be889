"""Models side by side: a table for the terminal and a picture."""

import math
from pathlib import Path
from typing import Any

from rich.table import Table

from egup_trainer.files import write_file_with
from egup_trainer.report.run_record import ResultRow

_COLUMNS = {
    "forget_probability": "p(forget)",
    "retain_probability": "p(retain)",
    "proxy_probability": "p(never seen)",
    "seconds": "seconds",
}


def format_probability(value: float | None) -> str:
    """Three digits where they tell something, a power of ten where they do not.

    Example:
        >>> format_probability(0.5), format_probability(3e-9), format_probability(None)
        ('0.500', '3.0e-09', '-')
    """
    if value is None:
        return "-"
    if value >= 0.01 or value == 0:
        return f"{value:.3f}"
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"


def comparison_table(rows: list[ResultRow], title: str) -> Table:
    """One line a model."""
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right")
    for row in rows:
        values = [row.metrics.get(name) for name in _COLUMNS]
        cells = [
            format_probability(value) if name != "seconds" else f"{value or 0:.1f}"
            for name, value in zip(_COLUMNS, values, strict=True)
        ]
        table.add_row(row.name, *cells)
    return table


def plot_comparison(rows: list[ResultRow], path: Path, title: str) -> None:
    """Forget probability against retain probability, one point a model; the retrained model is the aim.

    The forget axis is logarithmic down to 1e-8, where all that lies below is drawn with its own mark.
    """
    from matplotlib.figure import Figure

    floor = 1e-8
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        metrics: dict[str, Any] = row.metrics  # probabilities are always there
        forget, retain = metrics["forget_probability"], metrics["retain_probability"]
        below = forget < floor
        marker = "*" if row.name == "retrained" else "<" if below else "o"
        label = f"{row.name}, at 10$^{{{math.floor(math.log10(forget))}}}$" if forget > 0 and below else row.name
        axes.scatter(max(forget, floor), retain, s=180 if marker == "*" else 80, marker=marker, label=label, zorder=3)
    aim = next((row for row in rows if row.name == "retrained"), None)
    if aim is not None:
        metrics = dict(aim.metrics)
        axes.axvline(metrics["forget_probability"], color="grey", linestyle=":", linewidth=1)
        axes.axhline(metrics["retain_probability"], color="grey", linestyle=":", linewidth=1)
    axes.set(xscale="log", xlim=(floor / 2, 4), ylim=(0, 1.1), title=title)
    axes.set(xlabel="probability of forget answers", ylabel="probability of retain answers")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    write_file_with(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"), private=False)
