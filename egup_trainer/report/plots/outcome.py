"""What unlearning did: forgetting against utility, truth ratios, and the probability of each forget row."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from egup_trainer.report.models import Comparison, Model
from egup_trainer.report.numbers import format_number
from egup_trainer.report.plots.drawing import Gallery, Look, Plot, add_legend, draw, looks, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNIFICANCE = 0.05
_ROW_FLOOR = 1e-8  # of the probability of a row


@dataclass(frozen=True)
class _Tradeoff:
    """A pair of metrics that may stand for forgetting and utility.

    Args:
        forgetting, utility: names of the metrics, drawn upwards and to the right.
        labels: of the two axes.
        floor: smaller numbers are drawn here, on a logarithmic axis; None for a linear axis.
        caption: how to read the plot.
    """

    forgetting: str
    utility: str
    labels: tuple[str, str]
    floor: float | None
    caption: str


_TRADEOFFS = (
    _Tradeoff(
        "forget_quality",
        "model_utility",
        ("forget quality (p-value)", "model utility"),
        1e-20,
        "Higher: harder to tell from the retrained model, which a test can do below the dotted line (p = 0.05). "
        "Further right: more is kept of what is to be kept. What is below 1e-20 is drawn there.",
    ),
    _Tradeoff(
        "forget_probability",
        "retain_probability",
        ("probability of forget answers", "probability of retain answers"),
        1e-8,
        "No model has both forget quality and model utility, so probabilities stand in for them. Lower: forget answers "
        "less likely. Further right: retain answers more likely. What is below 1e-8 is drawn there.",
    ),
    _Tradeoff(
        "forget_verbmem_rouge",
        "retain_knowmem_rouge",
        ("verbatim memory of forget rows", "knowledge of retain rows"),
        None,
        "No model has both forget quality and model utility, so the ROUGE of MUSE stands in for them. Lower: less is "
        "recited. Further right: more is known.",
    ),
)


def tradeoff(comparison: Comparison) -> Gallery:
    """Forget quality (log axis) against model utility, or what stands in for them."""
    for pair in _TRADEOFFS:
        places = {model.name: place for model in comparison.models if (place := _place(model, pair)) is not None}
        if places:
            words = "; ".join(f"{name} {format_number(y)} at {format_number(x)}" for name, (x, y) in places.items())
            title = f"{pair.labels[0]} against {pair.labels[1]}"
            title = title[0].upper() + title[1:]
            plot = draw(title, f"{title}: {words}", partial(_paint_tradeoff, pair, places, looks(comparison)))
            return Gallery((plot,), pair.caption + _if_retrained(comparison, " The aim is the star, on dashed lines."))
    return Gallery(
        (),
        "No model has both a number for forgetting and one for utility. Evaluate with forget rows and retain rows, and "
        "give the results of a retrained model with --retrained.",
    )


def _if_retrained(comparison: Comparison, text: str) -> str:
    return "" if comparison.retrained is None else text


def _place(model: Model, pair: _Tradeoff) -> tuple[float, float] | None:
    x, y = model.value(pair.utility), model.value(pair.forgetting)
    return None if x is None or y is None else (x, y)


def _paint_tradeoff(
    pair: _Tradeoff, places: dict[str, tuple[float, float]], look_of: dict[str, Look], axes: "Axes"
) -> None:
    entries = {}
    for name, (x, y) in places.items():
        look = look_of[name]
        if look.marker == "*":
            axes.axvline(x, color=look.color, linestyle=look.line, linewidth=1)
            axes.axhline(y, color=look.color, linestyle=look.line, linewidth=1)
        size = 220 if look.marker == "*" else 90
        entries[name] = points(axes, [x], [max(y, pair.floor or 0.0)], look, s=size, zorder=3, edgecolors="white")
    if pair.forgetting == "forget_quality":
        axes.axhline(SIGNIFICANCE, color="#666666", linestyle=":", linewidth=1.4)
        axes.text(0.02, SIGNIFICANCE / 1.5, "p = 0.05", color="#666666", size="small", va="top")
    if pair.floor is None:
        axes.set_ylim(-0.03, 1.05 * max(1.0, *(y for _, y in places.values())))
    else:
        lowest = min(1e-2, max(pair.floor, min(y for _, y in places.values())))
        axes.set(yscale="log", ylim=(lowest**1.08, 2 * lowest**-0.06))  # a margin of the same share at both ends
    axes.set(xlabel=pair.labels[1], ylabel=pair.labels[0])
    axes.set_xlim(-0.03, 1.05 * max(1.0, *(x for x, _ in places.values())))
    add_legend(axes, entries)


def truth_ratios(comparison: Comparison) -> Gallery:
    """Distribution of the forget rows' raw truth ratios, wrong over right, one step curve a model."""
    found = {
        model.name: [value for value in model.values("forget_quality", "forget").values() if value > 0]
        for model in comparison.models
    }
    found = {name: values for name, values in found.items() if values}
    if not found:
        return Gallery(
            (),
            "No model has truth ratios: they need rows with a paraphrased and wrong answers, as TOFU has them. "
            "Evaluate on such rows.",
        )
    words = "; ".join(f"{name} median {format_number(float(np.median(values)))}" for name, values in found.items())
    plot = draw(
        "Truth ratios of the forget rows",
        f"Cumulative distributions: {words}",
        partial(_paint_ratios, found, looks(comparison)),
    )
    return Gallery(
        (plot,),
        "Share of forget rows whose truth ratio (likelihood of wrong answers over that of the right one) is at most "
        "the number below. A model that knows the right answers has its curve on the left."
        + _if_retrained(comparison, " The nearer a curve is to the dashed one, the higher is the forget quality."),
    )


def _paint_ratios(found: dict[str, list[float]], look_of: dict[str, Look], axes: "Axes") -> None:
    entries = {}
    for name, values in found.items():
        look = look_of[name]
        entries[name] = axes.ecdf(values, color=look.color, linestyle=look.line)
    axes.set(xscale="log", xlabel="truth ratio, wrong over right", ylabel="share of forget rows", ylim=(0, 1.02))
    add_legend(axes, entries)


def forget_rows(comparison: Comparison) -> Gallery:
    """Probability of each forget answer, a plot a method, beside the model before and the retrained model."""
    values = {model.name: model.values("forget_probability", "forget") for model in comparison.models}
    values = {name: found for name, found in values.items() if found}
    shown = [model.name for model in comparison.methods if model.name in values]
    if not shown:
        return Gallery((), "No method has probabilities of single forget rows. Evaluate with forget rows.")
    beside = [
        model.name for model in (comparison.before, comparison.retrained) if model is not None and model.name in values
    ]
    first = [shown[0], *beside][-1]
    order = values[first]
    ranks = {sample: rank for rank, sample in enumerate(sorted(order, key=order.__getitem__), start=1)}
    lowest = max(_ROW_FLOOR, min(value for found in values.values() for value in found.values()))
    plots = tuple(
        _rows_plot({each: values[each] for each in [*beside, name]}, ranks, lowest, looks(comparison)) for name in shown
    )
    return Gallery(
        plots,
        f"Each column is one forget row, in the order of its probability under {first}. What is below 1e-8 is drawn "
        "there."
        + _if_retrained(
            comparison,
            " Marks above the dashed line are answers that the model still knows better than one that never saw them; "
            "marks below are forgotten further than that.",
        ),
    )


def _rows_plot(
    values: dict[str, dict[int, float]], ranks: dict[int, int], lowest: float, look_of: dict[str, Look]
) -> Plot:
    """The plot of the last of the given models, beside the others."""
    medians = (f"{name} {format_number(float(np.median(list(found.values()))))}" for name, found in values.items())
    alt = f"Probability of each forget answer; medians: {', '.join(medians)}"
    return draw(list(values)[-1], alt, partial(_paint_rows, values, ranks, lowest, look_of))


def _paint_rows(
    values: dict[str, dict[int, float]],
    ranks: dict[int, int],
    lowest: float,
    look_of: dict[str, Look],
    axes: "Axes",
) -> None:
    entries = {}
    for name, found in values.items():
        look, samples = look_of[name], sorted(found.keys() & ranks, key=ranks.__getitem__)
        x, y = [ranks[sample] for sample in samples], [max(found[sample], _ROW_FLOOR) for sample in samples]
        if look.marker == "*":
            (entries[name],) = axes.plot(x, y, color=look.color, linestyle=look.line, zorder=3)
        else:
            entries[name] = points(axes, x, y, look, s=18, alpha=0.8, linewidths=0)
    axes.set(yscale="log", ylim=(lowest / 2, 2), xlabel="forget row", ylabel="probability")
    add_legend(axes, entries)
