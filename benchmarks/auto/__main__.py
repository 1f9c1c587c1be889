"""`python -m benchmarks.auto` unlearns each pair with no flag but the sources, and at each of six learning rates.

The distance to the retrained model is the mean over five metrics of |m - retrained| / |before - retrained|. With
`--cost`, each pair is also unlearned in a process of its own, without flags and with those that auto chose. What is
done is not done again; `--report` writes the tables in docs/results.md.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import tables
from benchmarks.auto.cost import cost_of_auto
from benchmarks.auto.pairs import PAIRS, Pair, make_pair
from benchmarks.markdown import put, table
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.main import main as egup
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.data.sources import load_rows
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.records.facts import run_facts
from egup_trainer.verdict import Status

TABLE, COSTS = tables.RESULTS / "auto.jsonl", tables.RESULTS / "auto_cost.jsonl"
PAGE = Path(__file__).parents[2] / "docs" / "results.md"
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
METRICS = ("forget_probability", "forget_rouge", "forget_extraction_strength", "mia_min_k", "retain_probability")
FORGET_METRICS = METRICS[:-1]
SETS = ("forget", "retain", "proxy")


def main(argv: list[str] | None = None) -> None:
    """Runs what has no results yet, or writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auto", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("auto_work"), help="Where models are kept.")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS), help="By default all.")
    parser.add_argument("--only_auto", action="store_true", help="Leave out the six learning rates.")
    parser.add_argument("--cost", action="store_true", help="Also measure what auto costs over known flags.")
    parser.add_argument("--report", action="store_true", help="Write docs/results.md's tables, and do no more.")
    options = parser.parse_args(argv)
    quiet_libraries()
    if not options.report:
        for name in options.pairs:
            _run(name, PAIRS[name], options)
    write_report()


def _run(name: str, pair: Pair, options: argparse.Namespace) -> None:
    folder = options.work_dir / name.replace(", ", "_").replace(" ", "_")
    for rate in (None, *(() if options.only_auto else RATES)):
        line = Line(TABLE, name if rate is None else f"{name} {rate:g}")
        if not line.exists():
            _make(pair, folder, options)
            print(f"{line.name}", flush=True)
            line.write(_unlearn(pair, folder, rate))
    line = Line(COSTS, name)
    if options.cost and not line.exists():
        _make(pair, folder, options)
        line.write(cost_of_auto(_words(pair, folder)))


def _make(pair: Pair, folder: Path, options: argparse.Namespace) -> None:
    if not folder.is_dir():
        make_pair(pair, folder, options.data_dir)


def _words(pair: Pair, folder: Path) -> list[str]:
    """What `egup unlearn` is given, without its output folder."""
    words = ["unlearn", "--model_name_or_path", str(folder / "before")]
    words += [word for name in SETS for word in (f"--{name}", str(folder / f"{name}.jsonl"))]
    words += ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true", "--logging_strategy", "no"]
    return [*words, "--save_strategy", "no", *pair.flags]


def _unlearn(pair: Pair, folder: Path, rate: float | None) -> dict[str, Any]:
    """What came of a run: its verdict and learning rate, and how far the model then is from the retrained one."""
    with TemporaryDirectory() as scratch:
        output = Path(scratch) / "unlearned"
        words = [*_words(pair, folder), "--output_dir", str(output)]
        if rate is not None:
            words += ["--learning_rate", str(rate), "--num_train_epochs", "20"]
        start = time.perf_counter()
        code = egup(words)
        seconds = time.perf_counter() - start
        record = json.loads((output / "unlearning.json").read_text(encoding="utf-8"))
        values = _evaluated(folder, output)
    before, retrained = (_evaluated(folder, folder / name) for name in ("before", "retrained"))
    probability = record["probability"]
    return {
        "code": code,
        "status": record["verdict"]["status"],
        "learning_rate": record["options"]["learning_rate"],
        "steps": record["steps"],
        "retained": probability["after"]["retain"] / probability["before"]["retain"],
        "distance": _distance(values, before, retrained),
        "forget_distance": _distance(values, before, retrained, FORGET_METRICS),
        "seconds": round(seconds, 1),
        "values": values,
        "run": run_facts(),
    }


def _evaluated(folder: Path, model: Path) -> dict[str, float | None]:
    """The metrics of a model on a pair's rows; those of the pair's own models are kept beside them."""
    kept = folder / f"{model.name}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    forget, retain, holdout = (load_rows(str(folder / f"{name}.jsonl")) for name in ("forget", "retain", "holdout"))
    suite = custom_suite(forget, retain, holdout, max_new_tokens=40)
    options = ScoringOptions(batch_size=16, progress=False)
    found = evaluate_model(load_model(str(model)), load_tokenizer(str(model)), suite, options).values
    values = {name: found.get(name) for name in METRICS}
    if model.parent == folder:
        kept.write_text(json.dumps(values), encoding="utf-8")
    return values


def _distance(
    values: dict[str, Any], before: dict[str, Any], retrained: dict[str, Any], metrics: tuple[str, ...] = METRICS
) -> float:
    """Mean over the metrics that all models have, each divisor at least a tenth of the retrained model's value."""
    found = [name for name in metrics if None not in (values[name], before[name], retrained[name])]
    scales = {name: max(abs(before[name] - retrained[name]), 0.1 * abs(retrained[name]), 1e-3) for name in found}
    return sum(abs(values[name] - retrained[name]) / scales[name] for name in found) / len(found)


def write_report() -> None:
    """Writes the tables of all pairs that have results."""
    headings = ["model, data", "verdict", "retain p / before", "rate", "distance", "of forget rows"]
    headings += ["FORGOTTEN of six rates", "nearest of these", "distance", "of forget rows", "retain p / before"]
    page = put(PAGE.read_text(encoding="utf-8"), "auto", table(headings, _rows()))
    headings = ["model, data", "processor seconds", "with known flags (ratio)", "and with examples (ratio)"]
    headings += ["memory, ratio", "memory with examples, ratio"]
    PAGE.write_text(put(page, "cost of auto", table(headings, _costs())), encoding="utf-8")


def _costs() -> Iterator[list[str]]:
    lines = tables.read_table(COSTS)
    for name in (name for name in PAIRS if name in lines):
        auto, *others = (lines[name][run] for run in ("auto", "known", "examples"))
        seconds = [f"{run['cpu_seconds']:.0f} ({auto['cpu_seconds'] / run['cpu_seconds']:.2f})" for run in others]
        memory = [f"{auto['gigabytes'] / run['gigabytes']:.2f}" for run in others]
        yield [name, f"{auto['cpu_seconds']:.0f}", *seconds, *memory]


def _rows() -> Iterator[list[str]]:
    lines = tables.read_table(TABLE)
    for name in (name for name in PAIRS if name in lines):
        auto = lines[name]
        tried = [lines[f"{name} {rate:g}"] for rate in RATES if f"{name} {rate:g}" in lines]
        forgotten = [line for line in tried if line["status"] == Status.FORGOTTEN.value]
        beside = [str(len(forgotten)) if tried else "", "", "", "", ""]
        if forgotten:
            best = min(forgotten, key=lambda line: line["distance"])
            beside[1:] = [*_numbers(best), f"{best['retained']:.3f}"]
        yield [name, auto["status"], f"{auto['retained']:.3f}", *_numbers(auto), *beside]


def _numbers(line: dict[str, Any]) -> list[str]:
    distances = [f"{line[kind]:.2f}" for kind in ("distance", "forget_distance")]
    return [f"{line['learning_rate']:.2g}", *distances]


if __name__ == "__main__":
    main()
