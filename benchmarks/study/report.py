"""docs/results.md's tables and figure, from the committed results alone."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.study.gap10 import WIDE_METRICS, offsets, retrained_of, without
from benchmarks.study.methods import ABLATION, AUTO, FIRST_DESIGN, LEADING, METHODS, OTHERS, SECOND, options_of
from benchmarks.study.plan import (
    AUTO_SEEDS,
    FURTHER_SEEDS,
    OTHER_SEEDS,
    RETRAINED,
    TEST_SEEDS,
    Record,
    RunSpec,
    Task,
    model_line,
)
from benchmarks.study.summary import ATTACKS, models_of, study_units, summary
from benchmarks.tables import Line

GREY, BLUE, GREEN = "#9aa3ad", "#1f6feb", "#1a7f37"
LEAST_QUALITY = 1e-6
DOCS = Path(__file__).parents[2] / "docs"
COLUMNS = {
    "gap": "gap",
    "forget_quality": "forget quality",
    "model_utility_ratio": "utility / retrained",
    "forget_probability_ratio": "forget p / retrained",
    "forget_truth_ratio": "truth ratio",
    "forget_extraction_strength": "extraction",
    "forget_rouge": "ROUGE",
    "forget_exact_memorization": "exact memorization",
    "worst_attack": "worst attack",
    "holdout_probability_ratio": "holdout p / retrained",
    "repetition": "repetition",
    "perplexity": "perplexity",
    "relearning_ratio": "relearning / retrained",
}
"""Measures of the tables, and their headings."""

STUDY_COLUMNS = {"gap10": "gap10", **COLUMNS}
MODELS = ("before", "retrained", "retrained again")


def write_report() -> None:
    """Writes the tables between their markers in docs/results.md, and the figure beside it."""
    found, further, others = (summary(seeds) for seeds in (TEST_SEEDS, FURTHER_SEEDS, OTHER_SEEDS))
    shown = [name for name in LEADING if name in found]
    tables = {
        "headline": _table(found, LEADING),
        "units": _units(found, shown),
        "attacks": _attacks(found, shown),
        "seeds": _by_seed(found, "forget_quality", shown, TEST_SEEDS),
        "wordings": _wordings(found, shown, TEST_SEEDS),
        "ablation": _table(further, (SECOND, *ABLATION)),
        "auto": _table(summary(AUTO_SEEDS), AUTO),
        "earlier auto": _table(others, (SECOND, *AUTO)),
        "others": _table(others, OTHERS),
        **{each.value: _table(summary(FURTHER_SEEDS, task=each), METHODS) for each in (Task.SCALE, Task.SEQUENCE)},
    }
    page = DOCS / "results.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        if table:
            text = markdown.put(text, f"second edition, {name}", table)
    page.write_text(text, encoding="utf-8")
    if shown:
        _draw(found, shown, DOCS / "images" / "study_second.png")


def _table(found: dict[str, Any], methods: Iterable[str]) -> str:
    """What the models and methods are worth; empty if none of the methods was run."""
    methods = [name for name in methods if name in found]
    if not methods:
        return ""
    names = [name for name in (*MODELS, *methods) if name in found]
    used = [key for key in STUDY_COLUMNS if any(found[name][key] is not None for name in names)]
    rows = []
    for name in names:
        rate = found[name].get("learning_rate")
        is_given = rate is not None and "learning_rate" not in options_of(name)
        cells = [f"`{name}`", f"{rate:g}" if is_given else "", str(found[name]["seeds"])]
        rows.append([*cells, *(_cell(found[name][key]) for key in used)])
    return markdown.table(["method", "rate", "seeds", *(STUDY_COLUMNS[key] for key in used)], rows)


def _units(found: dict[str, Any], methods: Sequence[str]) -> str:
    """Of each metric of `gap10`, its unit, and how many units the models and methods are away, mean over test seeds."""
    models = {seed: models_of(seed) for seed in TEST_SEEDS if model_line("retrained", seed).exists()}
    unit = study_units()
    away = {
        "retrained": [
            offsets(values, without(each, name), unit)
            for each in models.values()
            for name, values in retrained_of(each).items()
        ],
        "before": [offsets(each["before"], each, unit) for each in models.values()],
        **{
            name: [offsets(Record.read(line).values, models[seed], unit) for seed, line in _lines(found, name, models)]
            for name in methods
        },
    }
    rows = []
    for metric in (metric for metric in WIDE_METRICS if metric in unit):
        means = ([each[metric] for each in seen if metric in each] for seen in away.values())
        rows.append(
            [metric, f"{unit[metric]:.2g}", *(f"{statistics.fmean(each):.1f}" if each else "" for each in means)]
        )
    return markdown.table(["metric", "unit", *(f"`{name}`" for name in away)], rows)


def _attacks(found: dict[str, Any], methods: Sequence[str]) -> str:
    """AUC of the membership attacks."""
    names = [name for name in (*MODELS, *methods) if name in found]
    rows = ([f"`{name}`", *(_cell(found[name][attack]) for attack in ATTACKS)] for name in names)
    return markdown.table(["model", *(attack.removeprefix("mia_") for attack in ATTACKS)], rows)


def _by_seed(found: dict[str, Any], measure: str, methods: Iterable[str], seeds: Sequence[int]) -> str:
    """A measure of each seed on its own, where its mean says little."""
    rows = []
    for name in methods:
        values = {seed: Record.read(line).values[measure] for seed, line in _lines(found, name, seeds)}
        rows.append([f"`{name}`", *("" if values.get(seed) is None else f"{values[seed]:.2g}" for seed in seeds)])
    return markdown.table(["method", *(f"seed {seed}" for seed in seeds)], rows)


def _wordings(found: dict[str, Any], methods: Iterable[str], seeds: Sequence[int]) -> str:
    """Mean over seeds of l of the forget rows' answers, of their paraphrases and of the wrong answers."""
    lines = {name: [model_line(name, seed) for seed in seeds] for name in ("before", RETRAINED[0])}
    lines |= {name: [line for _, line in _lines(found, name, seeds)] for name in methods}
    rows = []
    for name, each in lines.items():
        values = [Record.read(line).values for line in each if line.exists()]
        if values:
            means = [statistics.fmean(one[f"l_{key}"] for one in values) for key in ("answer", "paraphrase", "wrong")]
            rows.append([f"`{name}`", *(f"{value:.2f}" for value in (*means, means[1] - means[2]))])
    return markdown.table(["model", "answer as learned", "paraphrase", "wrong answers", "paraphrase - wrong"], rows)


def _lines(found: dict[str, Any], method: str, seeds: Iterable[int]) -> list[tuple[int, Line]]:
    """Seed and results of each evaluated run of a method."""
    specs = [RunSpec(method, found[method]["learning_rate"], seed) for seed in seeds]
    return [(spec.seed, spec.evaluated) for spec in specs if spec.evaluated.exists()]


def _cell(spread: dict[str, float] | None) -> str:
    return "" if spread is None else f"{spread['mean']:.2g} ± {spread['std']:.1g}"


def _color(name: str) -> str:
    return BLUE if name == SECOND else GREEN if name in FIRST_DESIGN else GREY


def _draw(found: dict[str, Any], shown: Sequence[str], path: Path) -> None:
    """`gap10` of each method beside the noise floor, forget quality against utility, and relearning."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (bars, plane, curves) = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    _draw_bars(bars, found, shown)
    _draw_plane(plane, found, shown)
    _draw_relearning(curves, found, shown, TEST_SEEDS)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_bars(axes: Any, found: dict[str, Any], names: Sequence[str]) -> None:
    measured = [name for name in names if found[name]["gap10"]]
    means, errors = ([found[name]["gap10"][key] for name in measured] for key in ("mean", "std"))
    axes.bar(range(len(measured)), means, yerr=errors, color=[_color(name) for name in measured], capsize=2)
    if found["noise_floor"]["gap10"] is not None:
        axes.axhline(found["noise_floor"]["gap10"], color="black", linewidth=1, label="another retrained model")
        axes.legend(frameon=False)
    axes.set_xticks(range(len(measured)), measured, rotation=45, ha="right")
    axes.set(ylabel="gap10, standard deviations", title="Distance to the retrained model: lower is nearer")


def _draw_plane(axes: Any, found: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        quality = max(found[name]["forget_quality"]["mean"], LEAST_QUALITY)
        point = (found[name]["model_utility_ratio"]["mean"], quality)
        axes.scatter(*point, color=_color(name))
        if quality > LEAST_QUALITY:  # the others lie one over another on the lower edge
            axes.annotate(name, point, fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.axhline(0.05, color="#d0d4d9", linewidth=1)
    axes.axvline(0.97, color="#d0d4d9", linewidth=1)
    axes.margins(x=0.15)
    axes.set(yscale="log", xlabel="model utility / retrained", title="Upper right is best")
    axes.set_ylabel(f"forget quality ({LEAST_QUALITY:g} or less on the lower edge)")


def _draw_relearning(axes: Any, found: dict[str, Any], methods: Iterable[str], seeds: Sequence[int]) -> None:
    """Forget probability by step, mean over seeds."""
    for name, style in (("before", "--"), (RETRAINED[0], "-")):
        _draw_curve(axes, [model_line(name, seed) for seed in seeds], name, "black", style)
    styles = ("-", "--", ":", "-.")
    for place, name in enumerate(methods):
        _draw_curve(axes, [line for _, line in _lines(found, name, seeds)], name, _color(name), styles[place % 4])
    axes.set(xlabel="steps of relearning a tenth of the forget rows", ylabel="probability of the others")
    axes.set_title("Relearning")
    axes.legend(frameon=False, fontsize=7)


def _draw_curve(axes: Any, lines: list[Line], label: str, color: str, style: str) -> None:
    found = [Record.read(line).curve for line in lines if line.exists()]
    steps = [step for step, _ in found[0]]
    means = [statistics.fmean(curve[place][1] for curve in found) for place in range(len(steps))]
    axes.plot(steps, means, color=color, linestyle=style, label=label)
