"""From the records of a model to one number a method and measure, as JSON or as a table."""

from typing import Any

from benchmarks import markdown
from benchmarks.pretrained.plan import CHOOSING_SEED, LEARNED, PLANS, Plan
from benchmarks.study.gap10 import units, without
from benchmarks.study.plan import Record
from benchmarks.study.report import DOCS, STUDY_COLUMNS
from benchmarks.study.summary import noise_floor, summarize

Found = dict[str, Any]


def summary(plan: Plan) -> Found:
    """The noise floor, and each measure of the study with mean and spread over the seeds that have results.

    While no seed of the plan has been evaluated, the choosing seed is told of if it has been.

    Returns:
        by "noise_floor", model and method; empty until a seed has results of the models that methods are compared with.
    """
    told_of = [seed for seed in plan.seeds if _is_told(plan, seed)]
    seeds = told_of or [seed for seed in (CHOOSING_SEED,) if _is_told(plan, seed)]
    found = {seed: {name: Record.read(plan.evaluated(name, seed)) for name in plan.names(seed)} for seed in seeds}
    if not found:
        return {}
    models = {seed: {name: each[name].values for name in LEARNED if name in each} for seed, each in found.items()}
    unit = units(models.values())
    told: Found = {"noise_floor": noise_floor(models.values(), unit)}
    for name in dict.fromkeys(name for each in found.values() for name in each):
        records = {seed: each[name] for seed, each in found.items() if name in each}
        rate = next(iter(records.values())).experiment.get("unlearning", {}).get("learning_rate")
        runs = [(each.values, without(models[seed], name), models[seed]) for seed, each in records.items()]
        tuned = {} if rate is None else {"learning_rate": rate}
        told[name] = {"seeds": len(runs), **tuned, **summarize(runs, unit)}
    return told


def _is_told(plan: Plan, seed: int) -> bool:
    return all(plan.evaluated(name, seed).exists() for name in ("before", "retrained"))


def write_report() -> None:
    """Writes the tables of docs/results.md from the committed results."""
    page = DOCS / "results.md"
    text = page.read_text(encoding="utf-8")
    for plan in PLANS.values():
        found = summary(plan)
        text = markdown.put(text, plan.name, table(found) if found else "Not run.")
    page.write_text(text, encoding="utf-8")


def table(found: Found) -> str:
    """The summary in markdown, with the columns of the study's tables that have a number."""
    runs = {name: each for name, each in found.items() if name != "noise_floor"}
    used = [key for key in STUDY_COLUMNS if any(each[key] is not None for each in runs.values())]
    rows = []
    for name, each in runs.items():
        seeds, rate = each["seeds"], each.get("learning_rate")
        cells = [f"`{name}`", "" if rate is None else f"{rate:g}", str(seeds)]
        rows.append([*cells, *(_cell(each[key], seeds) for key in used)])
    return markdown.table(["model", "rate", "seeds", *(STUDY_COLUMNS[key] for key in used)], rows)


def _cell(spread: dict[str, float] | None, num_seeds: int) -> str:
    if spread is None:
        return ""
    return f"{spread['mean']:.2g}" + (f" ± {spread['std']:.1g}" if num_seeds > 1 else "")
