"""Entanglement made visible: features of forget and retain rows in two dimensions."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from egup_trainer.report.comparison import Comparison, Model
from egup_trainer.report.plots.drawing import Gallery, Look, Plot, add_legend, draw, looks, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RETAIN = Look("#b0b0b0", "o")
_NONE = (
    "No result file has the features of forget and retain rows beside it (NAME.features.safetensors). Evaluate with "
    "retain rows, and keep the two files together."
)
_HOW_TO_READ = (
    "Every mark is a row: the mean hidden state of its answer, projected onto two principal components. Where forget "
    "rows lie among retain rows, the two are entangled, and forgetting one may harm the other. Only two of many "
    "dimensions are visible here; the table has the numbers."
)


class _Features(NamedTuple):
    """Features of the forget and the retain rows of a model, each of shape (rows, size)."""

    forget: np.ndarray
    retain: np.ndarray

    @property
    def joined(self) -> np.ndarray:
        return np.concatenate(self)


def projections(comparison: Comparison) -> Gallery:
    """A plot per model. They share the axes of the first model that has features if the hidden sizes agree."""
    rows = {model.name: found for model in comparison.models if (found := _features_of(model)) is not None}
    if not rows:
        return Gallery((), _NONE)
    from sklearn.decomposition import PCA

    first, is_shared = next(iter(rows)), len({features.forget.shape[1] for features in rows.values()}) == 1
    joined = {name: (rows[first] if is_shared else features).joined for name, features in rows.items()}
    planes = {name: PCA(n_components=2, random_state=0).fit(features) for name, features in joined.items()}
    seen = {name: _Features(*map(planes[name].transform, features)) for name, features in rows.items()}
    limits = _limits(np.concatenate([each.joined for each in seen.values()])) if is_shared else {}
    look_of = looks(comparison)
    note = "The models' hidden sizes differ, so each plot has its own axes and distances cannot be compared."
    if is_shared:
        share = f"{planes[first].explained_variance_ratio_.sum():.0%}"
        note = f"All plots use the axes of {first}, which hold {share} of the variance of its features."
    plots = tuple(_plot(name, features, look_of[name], limits) for name, features in seen.items())
    return Gallery(plots, f"{_HOW_TO_READ} {note}")


def _features_of(model: Model) -> _Features | None:
    """Features without the rows that have numbers that are not finite; None if too few are left for a plane."""
    found = [model.evaluation.features.get(name) for name in _Features._fields]
    finite = [features[np.isfinite(features).all(axis=1)] for features in found if features is not None]
    if len(finite) < 2 or not (len(finite[0]) and len(finite[1])):
        return None
    features = _Features(*finite)
    return features if len(features.joined) > 2 and features.forget.shape[1] > 1 else None


def _limits(everything: np.ndarray) -> dict[str, tuple[float, float]]:
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-6)
    return dict(zip(("xlim", "ylim"), zip((low - margin).tolist(), (high + margin).tolist()), strict=True))


def _plot(name: str, features: _Features, look: Look, limits: dict[str, tuple[float, float]]) -> Plot:
    def paint(axes: "Axes") -> None:
        behind = points(axes, features.retain[:, 0], features.retain[:, 1], _RETAIN, s=16, alpha=0.7, linewidths=0)
        forget, size = features.forget, 40 if look.is_aim else 20
        marks = points(axes, forget[:, 0], forget[:, 1], look, s=size, alpha=0.85, linewidths=0)
        axes.set(xlabel="first component", ylabel="second component", **limits)
        add_legend(axes, {"forget rows": marks, "retain rows": behind})

    apart = np.linalg.norm(features.forget.mean(axis=0) - features.retain.mean(axis=0))
    alt = (
        f"Features of {name} in two dimensions: {len(features.forget)} forget and {len(features.retain)} retain rows, "
        f"whose means are {apart:.3g} apart"
    )
    return draw(name, alt, paint)
