"""Entanglement as one can see it: features of forget and retain rows in two dimensions."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from egup_trainer.report.models import Comparison, Model
from egup_trainer.report.plots.drawing import Gallery, Look, Plot, add_legend, draw, looks, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SETS = ("forget", "retain")
_RETAIN = Look("#b0b0b0", "o")
_HOW_TO_READ = (
    "Every mark is a row: the mean hidden state of its answer, projected on two principal components. Where forget "
    "rows lie among retain rows, the two are entangled and forgetting the one may harm the other. Two of many "
    "dimensions are seen here; the table has the numbers."
)


def projections(comparison: Comparison) -> Gallery:
    """A plot a model; with axes in common, fitted on the first model that has features, where hidden sizes agree."""
    rows = {model.name: found for model in comparison.models if (found := _rows(model)) is not None}
    if not rows:
        return Gallery(
            (),
            "No result file has the features of forget and retain rows beside it (NAME.features.safetensors). Evaluate "
            "with retain rows, and keep the two files together.",
        )
    in_common = len({forget.shape[1] for forget, _ in rows.values()}) == 1
    first = next(iter(rows))
    plane = _fit(*rows[first]) if in_common else None
    projected = {name: _project(plane or _fit(*parts), parts) for name, parts in rows.items()}
    limits = _limits(list(projected.values())) if in_common else None
    plots = tuple(_plot(name, parts, looks(comparison)[name], limits) for name, parts in projected.items())
    if plane is not None:
        share = f"{plane.explained_variance_ratio_.sum():.0%}"
        note = f"All plots have the axes of {first}, which hold {share} of the variance of its features."
    else:
        note = "The models' hidden sizes differ, so each plot has axes of its own and distances cannot be compared."
    return Gallery(plots, f"{_HOW_TO_READ} {note}")


def _rows(model: Model) -> tuple[np.ndarray, np.ndarray] | None:
    """Features of the forget and of the retain rows, those with numbers that are not finite left out."""
    found = [model.evaluation.features.get(name) for name in _SETS]
    finite = [features[np.isfinite(features).all(axis=1)] for features in found if features is not None]
    if len(finite) < len(_SETS):
        return None
    forget, retain = finite
    enough = len(forget) and len(retain) and len(forget) + len(retain) > 2 and forget.shape[1] > 1
    return (forget, retain) if enough else None


def _fit(forget: np.ndarray, retain: np.ndarray) -> Any:
    from sklearn.decomposition import PCA

    return PCA(n_components=2, random_state=0).fit(np.concatenate([forget, retain]))


def _project(plane: Any, parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    forget, retain = map(plane.transform, parts)
    return forget, retain


def _limits(parts: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float]]:
    everything = np.concatenate([array for pair in parts for array in pair])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-6)
    return dict(zip(("xlim", "ylim"), zip((low - margin).tolist(), (high + margin).tolist()), strict=True))


def _plot(
    name: str, parts: tuple[np.ndarray, np.ndarray], look: Look, limits: dict[str, tuple[float, float]] | None
) -> Plot:
    apart = np.linalg.norm(parts[0].mean(axis=0) - parts[1].mean(axis=0))
    alt = (
        f"Features of {name} in two dimensions: {len(parts[0])} forget and {len(parts[1])} retain rows, "
        f"whose means lie {apart:.3g} apart"
    )
    return draw(name, alt, partial(_paint, parts, look, limits))


def _paint(
    parts: tuple[np.ndarray, np.ndarray], look: Look, limits: dict[str, tuple[float, float]] | None, axes: "Axes"
) -> None:
    forget, retain = parts
    behind = points(axes, retain[:, 0], retain[:, 1], _RETAIN, s=16, alpha=0.7, linewidths=0)
    marks = points(axes, forget[:, 0], forget[:, 1], look, s=40 if look.marker == "*" else 20, alpha=0.85, linewidths=0)
    axes.set(xlabel="first component", ylabel="second component", **(limits or {}))
    add_legend(axes, {"forget rows": marks, "retain rows": behind})
