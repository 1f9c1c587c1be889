"""How well each model knows each row: forget rows and rows never seen, before and after, on one axis."""

from typing import TYPE_CHECKING, Any

import numpy as np

from egup_trainer.report.comparison import Comparison, Model, Role
from egup_trainer.report.numbers import format_number
from egup_trainer.report.plots.drawing import MANY_POINTS, Gallery, add_legend, draw
from egup_trainer.report.plots.outcome import ROW_FLOOR
from egup_trainer.report.verdict import FORGET, UNSEEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = {FORGET: ("rows to forget", "#D55E00", "o"), UNSEEN: ("rows never seen", "#0072B2", "D")}
"""Name, colour and marker of each kind of rows."""

_STRIP, _HEADING, _FRAME = 0.36, 0.3, 1.15
"""Heights in inches: of the dots of one kind of rows, of the name above them, and of what is around them."""

_WIDTH = 4.6
"""In inches; on a phone, the words are as large as those of the page's notes then."""

_BAND = (5, 95)
"""Percentiles between which nine of ten rows lie."""

Strips = list[tuple[str, dict[str, list[float]]]]
"""The name of each model, and the probabilities of its rows by their kind."""


def known_rows(comparison: Comparison) -> Gallery:
    """Probability of each answer, a dot a row; a band shows where rows lie that a model does not know."""
    strips = [(_heading(model, comparison), _probabilities(model)) for model in comparison.models]
    strips = [(heading, rows) for heading, rows in strips if rows]
    if not any(FORGET in rows for _, rows in strips):
        return Gallery((), "No model has probabilities of single forget rows. Evaluate with forget rows.")
    band, of_whom = _band(comparison)
    words = "; ".join(f"{heading}: {_medians(rows)}" for heading, rows in strips)
    height = _FRAME + sum(_HEADING + _STRIP * len(rows) for _, rows in strips)
    plot = draw(
        "How well the model knows each row",
        f"Probability of each answer, medians. {words}",
        lambda axes: _paint(axes, strips, band),
        (_WIDTH, height),
        f"A dot is a row.{of_whom}",
    )
    return Gallery((plot,), "")


def _heading(model: Model, comparison: Comparison) -> str:
    if model.role is Role.METHOD and len(comparison.methods) > 1:
        return model.name
    return {
        Role.BEFORE: "before unlearning",
        Role.METHOD: "after unlearning",
        Role.RETRAINED: "retrained without the rows to forget",
    }[model.role]


def _probabilities(model: Model) -> dict[str, list[float]]:
    """By kind of rows; the retrained model is only asked what it makes of the forget rows."""
    kinds = [FORGET] if model.role is Role.RETRAINED else list(_KINDS)
    found = {kind: list(model.values(f"{kind}_probability", kind).values()) for kind in kinds}
    return {kind: values for kind, values in found.items() if values}


def _band(comparison: Comparison) -> tuple[tuple[float, float] | None, str]:
    """Where nine of ten rows lie that a model does not know, and whose these are in words."""
    retrained = comparison.retrained
    aim = [] if retrained is None else _probabilities(retrained).get(FORGET, [])
    is_one = len(comparison.methods) == 1  # of several, one may be harmed
    asked = comparison.methods[0] if is_one or comparison.before is None else comparison.before
    unseen = _probabilities(asked).get(UNSEEN, [])
    if not aim and not unseen:
        return None, ""
    low, high = np.percentile(aim or unseen, _BAND)
    whose = "nine of ten of these rows lie in a model that never saw them" if aim else "nine of ten rows never seen lie"
    return (max(float(low), ROW_FLOOR), max(float(high), ROW_FLOOR)), f" The band is where {whose}."


def _paint(axes: "Axes", strips: Strips, band: tuple[float, float] | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    handles: dict[str, Any] = {}
    if band is not None:
        axes.axvspan(*band, color="#0072B2", alpha=0.12, linewidth=0)
    top, rng = 0.0, np.random.default_rng(0)
    for heading, rows in strips:
        place: dict[str, Any] = {"xy": (0.01, top - 0.05), "xycoords": ("axes fraction", "data"), "va": "top"}
        axes.annotate(heading, **place, weight="bold", size=10, parse_math=False)  # names may have a dollar sign
        top -= _HEADING
        for kind, values in rows.items():
            name, color, marker = _KINDS[kind]
            x = np.maximum(values, ROW_FLOOR)
            y = top - _STRIP * rng.uniform(0.15, 0.85, len(values))
            handles[name] = axes.scatter(
                x, y, s=22, color=color, marker=marker, alpha=0.65, linewidths=0, rasterized=len(x) > MANY_POINTS
            )
            top -= _STRIP
        axes.axhline(top, color="#cccccc", linewidth=0.8)
    lowest = max(ROW_FLOOR, min(min(values) for _, rows in strips for values in rows.values()))
    axes.set(xscale="log", xlim=(min(lowest / 2, 0.01), 1.6), ylim=(top, 0), yticks=[])
    axes.set_xlabel("← unknown      probability of the answer      known →")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
    add_legend(axes, handles)


def _medians(rows: dict[str, list[float]]) -> str:
    return ", ".join(f"{_KINDS[kind][0]} {format_number(float(np.median(found)))}" for kind, found in rows.items())
