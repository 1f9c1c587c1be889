"""What all plots share: a plot as data, its style, and a look for each model that is the same in all plots."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from egup_trainer.report.comparison import Comparison, Role

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from numpy import ndarray

    Numbers = Sequence[float] | ndarray

Paint = Callable[["Axes"], None]
"""Draws on the axes that it is given."""
FULL, SMALL = (5.2, 3.8), (4.0, 2.7)  # inches; both stay readable on a screen of 390 pixels
MANY_POINTS = 1500  # more points are drawn as pixels, which take less room than so many shapes
_NAME_LENGTH = 20  # characters; two names of this length and their marks fill a line
_LEGEND_ROW = 0.22  # inches
_STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.8,
    "savefig.dpi": 150,
    "svg.hashsalt": "egup_trainer",  # the same numbers make the same file
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of a model."""

    color: str
    marker: str
    line: str = "-"

    @property
    def is_aim(self) -> bool:
        """Whether it is the look of the retrained model."""
        return self.marker == "*"


# Okabe and Ito's palette, whose colours colour-blind readers can distinguish.
_BY_ROLE = {Role.BEFORE: Look("#E69F00", "s"), Role.RETRAINED: Look("#000000", "*", "--")}
_METHODS = (("#0072B2", "o"), ("#009E73", "D"), ("#CC79A7", "^"), ("#D55E00", "v"), ("#56B4E9", "P"))
_LINES = ("-", "-.", ":")


def looks(comparison: Comparison) -> dict[str, Look]:
    """The look of each model by name; from the sixth method on, colours are used again with another line style."""
    methods = {}
    for index, model in enumerate(comparison.methods):
        round_, position = divmod(index, len(_METHODS))
        methods[model.name] = Look(*_METHODS[position], _LINES[round_ % len(_LINES)])
    return {model.name: methods.get(model.name) or _BY_ROLE[model.role] for model in comparison.models}


@dataclass(frozen=True)
class Plot:
    """A plot: its title, the SVG as a data URI, what it shows in words, and a remark beside the title."""

    title: str
    image: str = field(repr=False)
    alt: str
    remark: str = ""

    def _repr_html_(self) -> str:
        """The plot in a notebook."""
        heading = " ".join(filter(None, [f"<b>{escape(self.title)}</b>", escape(self.remark)]))
        image = f'<img src="{self.image}" alt="{escape(self.alt)}" style="max-width: 100%; background: white">'
        return f'<figure style="margin: 0 1em 1em 0; display: inline-block">{heading}<br>{image}</figure>'


@dataclass(frozen=True)
class Gallery:
    """Plots that belong together, and a caption; without plots the caption says why, and what to do."""

    plots: tuple[Plot, ...]
    caption: str
    title: str = ""

    def _repr_html_(self) -> str:
        """The plots in a notebook, side by side, and the caption below."""
        title = f"<h4>{escape(self.title)}</h4>" if self.title else ""
        caption = f"<p>{escape(self.caption)}</p>" if self.caption else ""
        return f"<div>{title}{''.join(plot._repr_html_() for plot in self.plots)}{caption}</div>"


def draw(title: str, alt: str, paint: Paint, size: tuple[float, float] = FULL, remark: str = "") -> Plot:
    """Draws a plot of that size in inches as SVG; title and remark are shown beside it, `alt` says it in words."""
    image = base64.b64encode(render(paint, "svg", size)).decode()
    return Plot(title, f"data:image/svg+xml;base64,{image}", alt, remark)


def render(paint: Paint, kind: Literal["svg", "png"], size: tuple[float, float] = FULL) -> bytes:
    """The content of an image file; neither the style of the process nor its figures are touched."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def add_legend(axes: "Axes", handles: dict[str, Any]) -> None:
    """Adds a legend above the axes, where it covers nothing: matplotlib's handles by what they stand for."""
    figure: Any = axes.figure
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * max(0, len(handles) - 4) / 2)
    figure.legend(list(handles.values()), list(map(_legend_text, handles)), loc="outside upper left", ncols=2)


def _legend_text(name: str) -> str:
    """A name that fits a legend; matplotlib would set what is between two dollar signs as a formula."""
    half = _NAME_LENGTH // 2
    short = name if len(name) <= _NAME_LENGTH else f"{name[:half]}…{name[1 - half :]}"
    return short.replace("$", r"\$")


def points(axes: "Axes", x: "Numbers", y: "Numbers", look: Look, **options: Any) -> "PathCollection":
    """Draws the points of one model in its look; returns the handle for a legend."""
    settings = {"color": look.color, "marker": look.marker, "rasterized": len(x) > MANY_POINTS, **options}
    return axes.scatter(x, y, **settings)
