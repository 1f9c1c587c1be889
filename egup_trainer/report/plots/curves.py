"""Curves by optimizer step: every logged term of training, and how forget rows come back during relearning."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from egup_trainer.audit.attack import Finding
from egup_trainer.report.comparison import Comparison, Model, Role
from egup_trainer.report.numbers import finite_number, format_number
from egup_trainer.report.plots.drawing import SMALL, Gallery, Look, Plot, draw, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOT_TERMS = {"step", "epoch", "total_flos", "weights_unmoved"}
_SUMMARY = "train_"  # what Trainer logs once, at the end
_FEW = 40  # curves of up to this many points have markers
_LABELS = {
    "loss": "Loss",
    "loss_forget": "Forget term",
    "loss_retain": "Retain term",
    "loss_clreg": "CLReg term",
    "loss_clreg_anchor": "CLReg anchor term",
    "loss_proxy": "Proxy term",
    "forget_nll": "NLL of forget answers",
    "retain_nll": "NLL of retain answers",
    "weight_mean": "Weight per sample",
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
    "Loss of the answers": ("forget_nll", "retain_nll"),
    "Weights, drift and boundary": ("weight", "entanglement", "drift", "boundary_gap", "past_boundary"),
    "Optimizer": ("learning_rate", "grad_norm"),
    "Evaluation during training": ("eval_",),
    "Machine": ("tokens_per_second", "padding", "peak_memory_gb"),
    "Other terms": ("",),
}
_BANDS = (("_mean", "_min", "_max"), ("", "_p10", "_p90"))
_RELEARNING = {
    "forget": ("Forget rows held back", "while a few others are relearned"),
    "related": ("Forget rows held back", "while related retain rows are learned"),
    "unrelated": ("Forget rows held back", "while unrelated retain rows are learned"),
    "relearned": ("The relearned rows", ""),
}
_RELEARNING_CAPTION = (
    "Mean probability of the answers by optimizer step of relearning. If a curve rises above that of a model that "
    "never saw the rows, they were hidden, not removed. The band is the 95% interval over seeds."
)


@dataclass(frozen=True)
class Curve:
    """A logged term by optimizer step; NaN where the logged number is not finite.

    The band has its lower and upper bound, by the names they were logged under; it is empty if there are none.
    """

    steps: list[float]
    values: list[float]
    band: dict[str, list[float]] = field(default_factory=dict)


def read_curves(history: Sequence[dict[str, Any]]) -> dict[str, Curve]:
    """The curves of a log history by term, in the order in which the terms first appear.

    A term without any finite number has no curve, nor does a term that is the band of another one.
    """
    columns: dict[str, dict[float, float]] = {}
    for entry in history:
        step = finite_number(entry.get("step"))
        if step is None:
            continue
        for name, value in entry.items():
            if name not in _NOT_TERMS and not name.startswith(_SUMMARY):
                number = finite_number(value)
                columns.setdefault(name, {})[step] = math.nan if number is None else number
    columns = {name: column for name, column in columns.items() if not all(map(math.isnan, column.values()))}
    bands = {name: _bounds(name, columns) for name in columns}
    in_bands = {bound for bounds in bands.values() for bound in bounds}
    return {
        name: Curve(
            list(column),
            list(column.values()),
            {bound: [columns[bound].get(step, math.nan) for step in column] for bound in bands[name]},
        )
        for name, column in columns.items()
        if name not in in_bands
    }


def _bounds(name: str, columns: Collection[str]) -> tuple[str, ...]:
    """The terms that are the lower and upper bound of a term; none if they were not logged."""
    for end, low, high in _BANDS:
        stem = name.removesuffix(end)
        if name.endswith(end) and f"{stem}{low}" in columns and f"{stem}{high}" in columns:
            return f"{stem}{low}", f"{stem}{high}"
    return ()


def training_curves(comparison: Comparison) -> list[Gallery]:
    """Galleries of curves: those of the methods by group, then those of the models that they are compared with.

    The latter were fine-tuned for another number of steps and with another loss, so they share no axis with unlearning.
    """
    others = [model for model in comparison.models if model.role is not Role.METHOD]
    look_of = looks(comparison)
    return [
        *_galleries("", comparison.methods, look_of),
        *_galleries("Fine-tuning of the other models: ", others, look_of),
    ]


def _galleries(prefix: str, models: Sequence[Model], look_of: dict[str, Look]) -> list[Gallery]:
    curves = {model.name: read_curves(model.evaluation.training) for model in models}
    terms = dict.fromkeys(term for found in curves.values() for term in found)
    known = [*(term for term in _LABELS if term in terms), *(term for term in terms if term not in _LABELS)]
    groups: dict[str, list[Plot]] = {title: [] for title in _GROUPS}
    for term in known:
        lines = {name: found[term] for name, found in curves.items() if term in found}
        group = next(title for title, starts in _GROUPS.items() if term.startswith(starts))
        groups[group].append(_plot(term, lines, look_of))
    return [Gallery(tuple(plots), "", f"{prefix}{title}") for title, plots in groups.items() if plots]


def _plot(term: str, lines: dict[str, Curve], look_of: dict[str, Look]) -> Plot:
    def paint(axes: "Axes") -> None:
        for name, curve in lines.items():
            look = look_of[name]
            marker = look.marker if len(curve.steps) <= _FEW else None
            axes.plot(curve.steps, curve.values, color=look.color, linestyle=look.line, marker=marker, markersize=3.5)
            if curve.band:
                low, high = curve.band.values()
                axes.fill_between(curve.steps, low, high, color=look.color, alpha=0.18, linewidth=0)
        axes.set(xlabel="optimizer step")
        axes.locator_params(axis="x", integer=True, nbins=6)

    label = _LABELS.get(term, term)
    bounds = next((curve.band for curve in lines.values() if curve.band), ())
    band = "band: " + " to ".join(f"_{bound.rpartition('_')[2]}" for bound in bounds) if bounds else ""
    remark = ", ".join(filter(None, ["" if label == term else term, band]))
    alt = f"{label} by optimizer step: {'; '.join(f'{name} {_ends(curve)}' for name, curve in lines.items())}"
    return draw(label, alt, paint, SMALL, remark)


def _ends(curve: Curve) -> str:
    finite = [value for value in curve.values if not math.isnan(value)]
    return f"from {format_number(finite[0])} to {format_number(finite[-1])}"


def relearning_curves(findings: Mapping[str, Finding], look_of: dict[str, Look]) -> Gallery:
    """A plot for each kind of relearning, number of rows and learning rate, with a curve for each model."""
    names = dict.fromkeys(name for found in findings.values() for name in found.curves)
    plots = []
    for kind, (title, remark) in _RELEARNING.items():
        for name in names:
            first, _, setting = name.partition("_")
            lines = {model: found for model, found in findings.items() if name in found.curves and first == kind}
            if lines:
                remarks = filter(None, [remark, setting.replace("_", " ")])
                plots.append(_relearning_plot(title, ", ".join(remarks), name, lines, look_of))
    return Gallery(tuple(plots), _RELEARNING_CAPTION if plots else "Relearning was not run.")


def _relearning_plot(title: str, remark: str, name: str, lines: dict[str, Finding], look_of: dict[str, Look]) -> Plot:
    def paint(axes: "Axes") -> None:
        for model, found in lines.items():
            look = look_of[model]
            marks: dict[str, Any] = {"color": look.color, "linestyle": look.line, "marker": look.marker}
            axes.plot(*zip(*found.curves[name], strict=True), **marks, markersize=4)
            if band := found.bands.get(name):
                steps, low, high = zip(*band, strict=True)
                axes.fill_between(steps, low, high, color=look.color, alpha=0.18, linewidth=0)
        axes.set(xlabel="optimizer step", ylabel="probability", ylim=(-0.02, 1.02))
        axes.locator_params(axis="x", integer=True, nbins=6)

    ends = (
        f"{model} from {format_number(line[0][1])} to {format_number(line[-1][1])}"
        for model, line in ((model, found.curves[name]) for model, found in lines.items())
    )
    return draw(title, f"{title}, {remark or 'by step'}: {'; '.join(ends)}", paint, SMALL, remark)
