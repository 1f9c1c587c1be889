"""docs/results.md's tables and figure, from the committed results alone."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.study.methods import ABLATION, HEADLINE, OBJECTIVES, WITH_ALL, ablation_of
from benchmarks.study.plan import SEEDS, Record, RunSpec, model_line, wordings_line
from benchmarks.study.summary import chosen_with_retrained, summary
from benchmarks.tables import Line

GREY, BLUE = "#9aa3ad", "#1f6feb"
LEAST_QUALITY = 1e-6
DOCS = Path(__file__).parents[2] / "docs"
COLUMNS = {
    "gap": "gap",
    "forget_quality": "forget quality",
    "model_utility_ratio": "utility / retrained",
    "forget_probability_ratio": "forget p / retrained",
    "forget_truth_ratio": "truth ratio",
    "forget_extraction_strength": "extraction",
    "mia_min_k": "min-k AUC",
    "privleak": "privleak",
    "entanglement": "entanglement",
    "retain_shift": "retain shift",
    "repetition": "repetition",
    "relearning_speed": "relearning",
}
"""Measures of the tables, and their headings."""


def write_report() -> None:
    """Writes the tables between their markers in docs/results.md, and the figure beside it."""
    found = summary()
    ablated = [method for objective in ABLATION for method in ablation_of(objective)]
    tables = {
        "headline": _table(found, HEADLINE),
        "ablation": _table(found, ablated),
        "seeds": _by_seed(found, "forget_quality", [name + end for name in ABLATION for end in ("", WITH_ALL)]),
        "wordings": _wordings(["before", "retrained", *(name + end for name in ABLATION for end in ("", WITH_ALL))]),
        "chosen with retrained": _rates(chosen_with_retrained()),
    }
    page = DOCS / "results.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = markdown.put(text, name, table)
    page.write_text(text, encoding="utf-8")
    _draw(found, DOCS / "images" / "study.png")


def _table(found: dict[str, Any], methods: Iterable[str]) -> str:
    names = [name for name in ("before", "retrained", *methods) if name in found]
    used = [key for key in COLUMNS if any(found[name][key] is not None for name in names)]
    rows = []
    for name in names:
        rate = found[name].get("learning_rate")
        cells = [f"`{name}`", "" if rate is None else f"{rate:g}", str(found[name]["seeds"])]
        rows.append([*cells, *(_cell(found[name][key]) for key in used)])
    return markdown.table(["method", "rate", "seeds", *(COLUMNS[key] for key in used)], rows)


def _by_seed(found: dict[str, Any], measure: str, methods: Iterable[str]) -> str:
    """A measure of each seed on its own, where its mean says little."""
    rows = []
    for name in (name for name in methods if name in found):
        specs = [RunSpec(name, found[name]["learning_rate"], seed) for seed in SEEDS]
        values = [Record.read(spec.evaluated).values[measure] if spec.evaluated.exists() else None for spec in specs]
        rows.append([f"`{name}`", *("" if value is None else f"{value:.2g}" for value in values)])
    return markdown.table(["method", *(f"seed {seed}" for seed in SEEDS)], rows)


def _rates(found: dict[str, Any]) -> str:
    """Of each method, the rate that a look at the retrained model would choose, and how near it gets."""
    rows = (
        [f"`{name}`", f"{each['learning_rate']:g}", f"{each['retrained_distance']:.2f}"] for name, each in found.items()
    )
    return markdown.table(["method", "rate", "distance of l to the retrained model's"], rows)


def _wordings(names: list[str]) -> str:
    """Mean over seeds of l of the forget rows' answers, of their paraphrases and of the wrong answers."""
    rows = []
    for name in names:
        found = [Record.read(line).values for seed in SEEDS if (line := wordings_line(name, seed)).exists()]
        if found:
            means = [statistics.fmean(each[key] for each in found) for key in ("answer", "paraphrase", "wrong")]
            rows.append([f"`{name}`", *(f"{value:.2f}" for value in (*means, means[1] - means[2]))])
    return markdown.table(["model", "answer as learned", "paraphrase", "wrong answers", "paraphrase - wrong"], rows)


def _cell(spread: dict[str, float] | None) -> str:
    return "" if spread is None else f"{spread['mean']:.2g} ± {spread['std']:.1g}"


def _draw(found: dict[str, Any], path: Path) -> None:
    """Distance of each objective alone and with EGUP and CLReg, forget quality against utility, and relearning."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = [name for name in OBJECTIVES if name in found and name + WITH_ALL in found]
    figure, (bars, plane, curves) = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for shift, suffix, color, label in ((-0.2, "", GREY, "alone"), (0.2, WITH_ALL, BLUE, "with EGUP and CLReg")):
        spreads = [found[name + suffix] for name in names]
        _draw_bars(bars, [each["gap"] for each in spreads], shift, color, label)
        _draw_plane(plane, names, spreads, color, label)
    bars.set_xticks(range(len(names)), names, rotation=45, ha="right")
    bars.set(ylabel="distance to the retrained model", title="Distance: lower is nearer")
    bars.margins(y=0.2)
    bars.legend(frameon=False, loc="upper left", ncols=2)
    plane.axhline(0.05, color="#d0d4d9", linewidth=1)
    plane.axvline(0.95, color="#d0d4d9", linewidth=1)
    plane.margins(x=0.15)
    plane.set(yscale="log", xlabel="model utility / retrained", title="Upper right is best")
    plane.set_ylabel(f"forget quality ({LEAST_QUALITY:g} or less on the lower edge)")
    _draw_relearning(curves, found)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_bars(axes: Any, gaps: list[dict[str, float]], shift: float, color: str, label: str) -> None:
    places = [place + shift for place in range(len(gaps))]
    means, errors = ([each[key] for each in gaps] for key in ("mean", "std"))
    axes.bar(places, means, 0.4, yerr=errors, color=color, label=label, capsize=2)


def _draw_plane(axes: Any, names: list[str], spreads: list[dict[str, Any]], color: str, label: str) -> None:
    points = [
        (each["model_utility_ratio"]["mean"], max(each["forget_quality"]["mean"], LEAST_QUALITY)) for each in spreads
    ]
    axes.scatter(*zip(*points, strict=True), color=color, label=label)
    for name, point in zip(names, points, strict=True):
        if point[1] > LEAST_QUALITY:  # the others lie one over another on the lower edge
            axes.annotate(name, point, fontsize=7, xytext=(3, 3), textcoords="offset points")


def _draw_relearning(axes: Any, found: dict[str, Any]) -> None:
    """Forget probability by step, mean over seeds: the two models, and the ablated objectives without and with all."""
    styles = {"before": ("black", "--"), "retrained": ("#1a7f37", "-")}
    for name, (color, style) in styles.items():
        _draw_curve(axes, [model_line(name, seed) for seed in SEEDS], name, color, style)
    for objective, style in zip(ABLATION, ("-", ":"), strict=True):
        for name, color in ((objective, GREY), (objective + WITH_ALL, BLUE)):
            if name in found:
                specs = [RunSpec(name, found[name]["learning_rate"], seed) for seed in SEEDS]
                _draw_curve(axes, [spec.evaluated for spec in specs], name, color, style)
    axes.set(xlabel="steps of relearning a tenth of the forget rows", ylabel="probability of the others")
    axes.set_title("Relearning")
    axes.legend(frameon=False, fontsize=7)


def _draw_curve(axes: Any, lines: list[Line], label: str, color: str, style: str) -> None:
    found = [Record.read(line).curve for line in lines if line.exists()]
    steps = [step for step, _ in found[0]]
    means = [statistics.fmean(curve[place][1] for curve in found) for place in range(len(steps))]
    axes.plot(steps, means, color=color, linestyle=style, label=label)
