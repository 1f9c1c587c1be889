"""The outcome of unlearning: forgetting against utility, truth ratios, and the probability of each forget row."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from egup_trainer.files import write_file
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.numbers import format_number
from egup_trainer.report.plots.drawing import Gallery, Look, Paint, Plot, add_legend, draw, looks, points, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNIFICANCE = 0.05
_PICTURE = (7.0, 4.5)  # inches
ROW_FLOOR = 1e-8  # smallest probability of a row that is drawn


@dataclass(frozen=True)
class _Tradeoff:
    """Metrics that can stand for forgetting (vertical axis) and utility, the labels of the axes, and a caption.

    Numbers below the `floor` are drawn there, on a logarithmic axis; None for a linear axis.
    """

    forgetting: str
    utility: str
    labels: tuple[str, str]
    floor: float | None
    caption: str


_QUALITY = _Tradeoff(
    "forget_quality",
    "model_utility",
    ("forget quality (p-value)", "model utility"),
    1e-20,
    "Higher: harder to distinguish from the retrained model; below the dotted line (p = 0.05) a test can do it. "
    "Further right: more retained knowledge is kept. Values below 1e-20 are drawn at 1e-20.",
)
_PROBABILITIES = _Tradeoff(
    "forget_probability",
    "retain_probability",
    ("probability of forget answers", "probability of retain answers"),
    1e-8,
    "No model has both forget quality and model utility, so probabilities are shown instead. Lower: forget answers are "
    "less likely. Further right: retain answers are more likely. Values below 1e-8 are drawn at 1e-8.",
)
_ROUGE = _Tradeoff(
    "forget_verbmem_rouge",
    "retain_knowmem_rouge",
    ("verbatim memory of forget rows", "knowledge of retain rows"),
    None,
    "No model has both forget quality and model utility, so MUSE's ROUGE is shown instead. Lower: less is recited. "
    "Further right: more is known.",
)
_NO_TRADEOFF = (
    "No model has both a number for forgetting and one for utility. Evaluate with forget rows and retain rows, and "
    "give the results of a retrained model with --retrained."
)


def tradeoff(comparison: Comparison) -> Gallery:
    """Forget quality (log axis) against model utility, or the first pair of metrics that can stand for them."""
    for pair in (_QUALITY, _PROBABILITIES, _ROUGE):
        paint, values = _tradeoff_painter(comparison, pair)
        if values:
            words = "; ".join(f"{name} {format_number(y)} at {format_number(x)}" for name, (x, y) in values.items())
            title = f"{pair.labels[0]} against {pair.labels[1]}"
            title = title[0].upper() + title[1:]
            aim = " The aim is the star on the dashed lines." if comparison.retrained else ""
            return Gallery((draw(title, f"{title}: {words}", paint),), pair.caption + aim)
    return Gallery((), _NO_TRADEOFF)


def write_picture(path: Path, comparison: Comparison, title: str) -> None:
    """Writes probability of forget answers against that of retain answers as a PNG picture, a point per model."""
    paint, _ = _tradeoff_painter(comparison, _PROBABILITIES)

    def paint_with_title(axes: "Axes") -> None:
        paint(axes)
        axes.set_title(title)

    write_file(path, render(paint_with_title, "png", _PICTURE), private=False)


def _tradeoff_painter(comparison: Comparison, pair: _Tradeoff) -> tuple[Paint, dict[str, tuple[float, float]]]:
    """What draws a pair of metrics, and (utility, forgetting) of each model that has both."""
    found = {model.name: (model.value(pair.utility), model.value(pair.forgetting)) for model in comparison.models}
    values = {name: (x, y) for name, (x, y) in found.items() if x is not None and y is not None}

    def paint(axes: "Axes") -> None:
        handles = {}
        for name, (x, y) in values.items():
            look = looks(comparison)[name]
            if look.is_aim:
                axes.axvline(x, color=look.color, linestyle=look.line, linewidth=1)
                axes.axhline(y, color=look.color, linestyle=look.line, linewidth=1)
            size, height = 220 if look.is_aim else 90, max(y, pair.floor or 0.0)
            handles[name] = points(axes, [x], [height], look, s=size, zorder=3, edgecolors="white")
        if pair is _QUALITY:
            axes.axhline(SIGNIFICANCE, color="#666666", linestyle=":", linewidth=1.4)
            axes.text(0.02, SIGNIFICANCE / 1.5, "p = 0.05", color="#666666", size="small", va="top")
        if pair.floor is None:
            axes.set_ylim(-0.03, 1.05 * max([1.0, *(y for _, y in values.values())]))
        else:
            lowest = min(1e-2, max(pair.floor, min((y for _, y in values.values()), default=1.0)))
            axes.set(yscale="log", ylim=(lowest**1.08, 2 * lowest**-0.06))  # a margin of the same share at both ends
        axes.set(xlabel=pair.labels[1], ylabel=pair.labels[0])
        axes.set_xlim(-0.03, 1.05 * max([1.0, *(x for x, _ in values.values())]))
        add_legend(axes, handles)

    return paint, values


def truth_ratios(comparison: Comparison) -> Gallery:
    """Distribution of the forget rows' raw truth ratios, wrong over right, as one step curve per model."""
    found = {
        model.name: [value for value in model.values("forget_quality", "forget").values() if value > 0]
        for model in comparison.models
    }
    found = {name: values for name, values in found.items() if values}
    if not found:
        return Gallery(
            (),
            "No model has truth ratios: they need rows with a paraphrased answer and wrong answers, as TOFU has them. "
            "Evaluate on such rows.",
        )

    def paint(axes: "Axes") -> None:
        handles = {}
        for name, values in found.items():
            look = looks(comparison)[name]
            handles[name] = axes.ecdf(values, color=look.color, linestyle=look.line)
        axes.set(xscale="log", xlabel="truth ratio, wrong over right", ylabel="share of forget rows", ylim=(0, 1.02))
        add_legend(axes, handles)

    words = "; ".join(f"{name} median {format_number(float(np.median(values)))}" for name, values in found.items())
    plot = draw("Truth ratios of the forget rows", f"Cumulative distributions: {words}", paint)
    caption = (
        "Share of forget rows whose truth ratio (likelihood of wrong answers over that of the right one) is at most "
        "the number below. The curve of a model that knows the right answers is on the left."
    )
    if comparison.retrained is not None:
        caption += " The nearer a curve is to the dashed one, the higher the forget quality."
    return Gallery((plot,), caption)


def forget_rows(comparison: Comparison) -> Gallery:
    """Probability of each forget answer: a plot per method, beside the initial model and the retrained model."""
    values = {model.name: model.values("forget_probability", "forget") for model in comparison.models}
    values = {name: found for name, found in values.items() if found}
    shown = [model.name for model in comparison.methods if model.name in values]
    if not shown:
        return Gallery((), "No method has probabilities of single forget rows. Evaluate with forget rows.")
    beside = [model.name for model in (comparison.before, comparison.retrained) if model and model.name in values]
    first = [shown[0], *beside][-1]
    ranks = {sample: rank for rank, sample in enumerate(sorted(values[first], key=values[first].__getitem__), start=1)}
    lowest = max(ROW_FLOOR, min(value for found in values.values() for value in found.values()))
    plots = tuple(
        _rows_plot({each: values[each] for each in [*beside, name]}, ranks, lowest, looks(comparison)) for name in shown
    )
    caption = (
        f"Each column is one forget row, ordered by its probability under {first}. Values below 1e-8 are drawn at 1e-8."
    )
    if comparison.retrained is not None:
        caption += (
            " Marks above the dashed line are answers that the model still knows better than a model that never saw "
            "them; marks below it are forgotten further than that."
        )
    return Gallery(plots, caption)


def _rows_plot(
    values: Mapping[str, Mapping[int, float]], ranks: Mapping[int, int], lowest: float, look_of: dict[str, Look]
) -> Plot:
    """The plot of the last of the given models, beside the others."""

    def paint(axes: "Axes") -> None:
        handles: dict[str, Any] = {}
        for name, found in values.items():
            look, samples = look_of[name], sorted(found.keys() & ranks, key=ranks.__getitem__)
            x, y = [ranks[sample] for sample in samples], [max(found[sample], ROW_FLOOR) for sample in samples]
            if look.is_aim:
                (handles[name],) = axes.plot(x, y, color=look.color, linestyle=look.line, zorder=3)
            else:
                handles[name] = points(axes, x, y, look, s=18, alpha=0.8, linewidths=0)
        axes.set(yscale="log", ylim=(lowest / 2, 2), xlabel="forget row", ylabel="probability")
        add_legend(axes, handles)

    medians = (f"{name} {format_number(float(np.median(list(found.values()))))}" for name, found in values.items())
    return draw(list(values)[-1], f"Probability of each forget answer; medians: {', '.join(medians)}", paint)
