"""Training curves: every term that was logged, with its band where one was logged beside it."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from egup_trainer.report.models import Comparison, Model, Role
from egup_trainer.report.numbers import finite_number, format_number
from egup_trainer.report.plots.drawing import SMALL, Gallery, Look, Plot, draw, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NO_TERMS = {"step", "epoch", "total_flos", "weights_unmoved"}
_SUMMARY = "train_"  # what Trainer logs once, at the end
_FEW = 40  # points; so many are marked
_LABELS = {
    "loss": "Loss",
    "loss_forget": "Forget term",
    "loss_retain": "Retain term",
    "loss_clreg": "CLReg term",
    "loss_clreg_anchor": "CLReg anchor term",
    "loss_proxy": "Proxy term",
    "forget_nll": "NLL of forget answers",
    "retain_nll": "NLL of retain answers",
    "weight_mean": "Weight of a sample",
    "entanglement": "Entanglement",
    "drift": "Drift of features",
    "boundary_gap": "Gap to the proxy boundary",
    "past_boundary": "Share past the boundary",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
    "padding": "Share of padding",
    "peak_memory_gb": "Peak memory (GB)",
}
_GROUPS = {
    "Loss and its terms": ("loss",),
    "What the model says of the rows": ("forget_nll", "retain_nll"),
    "Weights, drift and boundary": ("weight", "entanglement", "drift", "boundary_gap", "past_boundary"),
    "Optimizer": ("learning_rate", "grad_norm"),
    "Evaluation during training": ("eval_",),
    "Machine": ("tokens_per_second", "padding", "peak_memory_gb"),
    "Other terms": ("",),
}
_BANDS = (("_mean", "_min", "_max"), ("", "_p10", "_p90"))


@dataclass(frozen=True)
class Curve:
    """A logged term of a run; NaN where what was logged is not finite.

    Args:
        steps: optimizer steps.
        values: the term at those steps.
        band: its lower and upper bound at those steps, by the names they were logged under; empty if they were not.
    """

    steps: list[float]
    values: list[float]
    band: dict[str, list[float]] = field(default_factory=dict)


def read_curves(history: Sequence[dict[str, Any]]) -> dict[str, Curve]:
    """The curves of a log history by term, in the order in which terms first appear.

    A term without any finite number has no curve, nor have those that are another's band.
    """
    columns: dict[str, dict[float, float]] = {}
    for entry in history:
        step = finite_number(entry.get("step"))
        if step is None:
            continue
        for name, value in entry.items():
            if name not in _NO_TERMS and not name.startswith(_SUMMARY):
                columns.setdefault(name, {})[step] = _or_nan(value)
    columns = {name: column for name, column in columns.items() if not all(map(math.isnan, column.values()))}
    bands = {name: _bounds(name, columns) for name in columns}
    in_bands = {bound for bounds in bands.values() for bound in bounds}
    return {
        name: Curve(list(column), list(column.values()), {bound: _at(column, columns[bound]) for bound in bands[name]})
        for name, column in columns.items()
        if name not in in_bands
    }


def _at(steps: Iterable[float], column: dict[float, float]) -> list[float]:
    return [column.get(step, math.nan) for step in steps]


def _or_nan(value: Any) -> float:
    number = finite_number(value)
    return math.nan if number is None else number


def _bounds(name: str, columns: Collection[str]) -> tuple[str, ...]:
    """The terms that are lower and upper bound of a term; none where they were not logged."""
    for end, low, high in _BANDS:
        stem = name.removesuffix(end)
        if name.endswith(end) and f"{stem}{low}" in columns and f"{stem}{high}" in columns:
            return f"{stem}{low}", f"{stem}{high}"
    return ()


def training_curves(comparison: Comparison) -> list[Gallery]:
    """Galleries of curves: those of the methods by group, then those of the models that they are compared with.

    The latter were fine-tuned, for another number of steps and on another loss, and share no axis with unlearning.
    """
    others = tuple(model for model in comparison.models if model.role is not Role.METHOD)
    look_of = looks(comparison)
    return [
        *_galleries("", comparison.methods, look_of),
        *_galleries("Fine-tuning of the other models: ", others, look_of),
    ]


def _galleries(prefix: str, models: Sequence[Model], look_of: dict[str, Look]) -> list[Gallery]:
    curves = {model.name: read_curves(model.evaluation.training) for model in models}
    terms = sorted(dict.fromkeys(term for found in curves.values() for term in found), key=_place)
    groups: dict[str, list[Plot]] = {}
    for term in terms:
        lines = {name: found[term] for name, found in curves.items() if term in found}
        groups.setdefault(_group(term), []).append(_plot(term, lines, look_of))
    return [Gallery(tuple(groups[title]), "", f"{prefix}{title}") for title in _GROUPS if title in groups]


def _group(term: str) -> str:
    return next(title for title, starts in _GROUPS.items() if term.startswith(starts))


def _place(term: str) -> int:
    """Known terms stand in the order of their labels, others behind them in the order of the log."""
    return list(_LABELS).index(term) if term in _LABELS else len(_LABELS)


def _plot(term: str, lines: dict[str, Curve], look_of: dict[str, Look]) -> Plot:
    label = _LABELS.get(term, term)
    bounds = next((curve.band for curve in lines.values() if curve.band), ())
    band = "band: " + " to ".join(f"_{bound.rpartition('_')[2]}" for bound in bounds) if bounds else ""
    remark = ", ".join(filter(None, ["" if label == term else term, band]))
    ends = (f"{name} {_ends(curve.values)}" for name, curve in lines.items())
    alt = f"{label} by optimizer step: {'; '.join(ends)}"
    return draw(label, alt, partial(_paint, lines, look_of), SMALL, remark)


def _ends(values: list[float]) -> str:
    finite = [value for value in values if not math.isnan(value)]
    return f"from {format_number(finite[0])} to {format_number(finite[-1])}"


def _paint(lines: dict[str, Curve], look_of: dict[str, Look], axes: "Axes") -> None:
    for name, curve in lines.items():
        look = look_of[name]
        marker = look.marker if len(curve.steps) <= _FEW else None
        axes.plot(curve.steps, curve.values, color=look.color, linestyle=look.line, marker=marker, markersize=3.5)
        if curve.band:
            low, high = curve.band.values()
            axes.fill_between(curve.steps, low, high, color=look.color, alpha=0.18, linewidth=0)
    axes.set(xlabel="optimizer step")
    axes.locator_params(axis="x", integer=True, nbins=6)
