"""What all plots share: a plot as data, its style, and a look for each model that is the same in all of them."""

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from egup_trainer.report.models import Comparison, Role

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FULL, SMALL = (5.2, 3.8), (4.0, 2.7)  # inches; both stay readable on a screen of 390 pixels
MANY_POINTS = 1500  # more are drawn as pixels, which take less room than so many shapes
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


@dataclass(frozen=True)
class Plot:
    """A picture: its title, the SVG as a data URI, what it shows in words, and a remark beside the title."""

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
    """Pictures that belong together, and a caption; without pictures the caption says why and what to do."""

    plots: tuple[Plot, ...]
    caption: str
    title: str = ""

    def _repr_html_(self) -> str:
        """The pictures in a notebook, side by side, and the caption below."""
        title = f"<h4>{escape(self.title)}</h4>" if self.title else ""
        caption = f"<p>{escape(self.caption)}</p>" if self.caption else ""
        return f"<div>{title}{''.join(plot._repr_html_() for plot in self.plots)}{caption}</div>"


# Okabe and Ito's palette, which colour-blind readers can tell apart.
_BEFORE, _RETRAINED = Look("#E69F00", "s"), Look("#000000", "*", "--")
_METHODS = (
    Look("#0072B2", "o"),
    Look("#009E73", "D"),
    Look("#CC79A7", "^"),
    Look("#D55E00", "v"),
    Look("#56B4E9", "P"),
)
_LINES = ("-", "-.", ":")


def looks(comparison: Comparison) -> dict[str, Look]:
    """The look of each model by name; from the sixth method on colours come again with another line style."""
    found = {Role.BEFORE: _BEFORE, Role.RETRAINED: _RETRAINED}
    order = [model.name for model in comparison.methods]
    return {model.name: found.get(model.role) or _method_look(order.index(model.name)) for model in comparison.models}


def _method_look(place: int) -> Look:
    look = _METHODS[place % len(_METHODS)]
    return Look(look.color, look.marker, _LINES[place // len(_METHODS) % len(_LINES)])


def _plain(name: str) -> str:
    """A name that fits a legend, as text for matplotlib, which sets what stands between dollar signs as a formula."""
    half = _NAME_LENGTH // 2
    short = name if len(name) <= _NAME_LENGTH else f"{name[:half]}…{name[1 - half :]}"
    return short.replace("$", r"\$")


def draw(
    title: str, alt: str, paint: Callable[["Axes"], None], size: tuple[float, float] = FULL, remark: str = ""
) -> Plot:
    """Draws a plot as SVG.

    Args:
        title: of the plot, shown beside it.
        alt: the plot in words.
        paint: draws on the axes.
        size: width and height in inches.
        remark: shown beside the title.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", _STYLE]):  # whatever style the process uses otherwise
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Plot(title, f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}", alt, remark)


def add_legend(axes: "Axes", entries: dict[str, Any]) -> None:
    """A legend above the axes, where it covers nothing.

    Args:
        axes: with a figure of constrained layout.
        entries: matplotlib handles by model, or by what else they stand for.
    """
    texts = [_plain(name) for name in entries]
    figure: Any = axes.figure
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * max(0, len(texts) - 4) / 2)
    figure.legend(list(entries.values()), texts, loc="outside upper left", ncols=2)


def points(axes: "Axes", x: Iterable[float], y: Iterable[float], look: Look, **options: Any) -> Any:
    """A scatter of one model in its look; returns the handle for a legend."""
    x, y = list(x), list(y)
    settings = {"color": look.color, "marker": look.marker, "rasterized": len(x) > MANY_POINTS, **options}
    return axes.scatter(x, y, **settings)
