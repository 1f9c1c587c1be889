"""What makes the default method harder to undo: `python -m benchmarks.resistance --work_dir resist_work`.

Each variant changes options of the default method, in the world of the study and on its tuning seeds. It is measured
how soon the forget rows come back when a few of them are relearned, how deep unlearning reaches, and what the variant
costs. It may be stopped at any time: what is done is not done again. `--report` writes the table in docs/auditing.md.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import markdown, tables
from benchmarks.runner import Piece, run_first_piece
from benchmarks.study import runs, world
from benchmarks.study.methods import SECOND, options_of
from benchmarks.study.plan import TUNING_SEEDS, Record
from benchmarks.study.work import SETS, Place, do_base
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.audit.depth import depth_scores, layer_drops
from egup_trainer.audit.relearning import relearning_speed
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.records.facts import run_facts

TABLE = tables.RESULTS / "resistance.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "auditing.md"
LEARNING_RATE = 1e-3
"""What the tuning seeds of the study choose for the default method."""

NUM_OTHERS = 3
"""Of `world.BASE_AUTHORS`: what the base model knows of them no retain row holds in place."""


@dataclass(frozen=True)
class Variant:
    """The default method with other options.

    Args:
        title: what it is, in the table.
        options: of the configuration, beside those of the default method.
    """

    title: str
    options: dict[str, Any] = field(default_factory=dict)


DEFAULT = "default"
VARIANTS = {
    DEFAULT: Variant("default"),
    "twice": Variant("20 epochs instead of 10", {"num_train_epochs": 20}),
    "twice retain1": Variant("20 epochs, retain weight 1", {"num_train_epochs": 20, "retain_weight": 1.0}),
    "retain1": Variant("retain weight 1 instead of 3", {"retain_weight": 1.0}),
    **{
        f"{name} 20 epochs": Variant(
            f"forget_sharpness {share:g}, 20 epochs", {"forget_sharpness": share, "num_train_epochs": 20}
        )
        for name, share in (("joint", 0.2), ("far", 0.4))
    },
}
DROPPED = {
    "sharp.2": "sharpness-aware, rho .2",
    "sharp.5": "sharpness-aware, rho .5",
    "sharp.5 retain9": "sharpness-aware, .5, retain 9",
    "sharp.2 twice": "sharpness-aware, .2, 20 epochs",
    "sharp.5 twice": "sharpness-aware, .5, 20 epochs",
    "sharp.5 twice retain1": "sharpness-aware, .5, 20, retain 1",
    "two1": "two optimizer states",
    "masked": "forget gradient masked",
    "selective8": "shared directions spared, 8 a side",
    "guaranteed1": "steps projected, retain weight 1",
    "noise.4": "noise .4, 200 steps of distillation",
}
"""What did not help enough to be kept, by title. Its code is in the repository's history (commit 386bb3a)."""

TITLES = {**{name: each.title for name, each in VARIANTS.items()}, **DROPPED}
MODELS = ("before", "retrained")


@dataclass(frozen=True)
class Column:
    """A number of the table.

    Args:
        head: its title.
        form: its format.
        with_change: whether the difference to the default on the same seeds stands beside it.
    """

    head: str
    form: str
    with_change: bool = False


COLUMNS = {
    "relearning": Column("relearning", ".2f", with_change=True),
    "depth": Column("depth", ".2f", with_change=True),
    "l_forget": Column("forget l", "+.2f"),
    "boundary_distance": Column("KS", ".2f"),
    "retain_rise": Column("retain rise", "+.3f"),
    "holdout_rise": Column("unseen rise", "+.2f"),
    "other_rise": Column("others rise", "+.2f"),
}
"""The columns of the table by the names of `of_seed`."""


def line_of(name: str, seed: int) -> Line:
    """The results of a variant, or of one of `MODELS`."""
    return Line(TABLE, f"{name}_seed{seed}")


def do_model(place: Place, name: str, seed: int) -> None:
    """Trains and measures one of `MODELS`."""
    folder, rows = place.model(name, seed), place.rows(seed)
    if not folder.is_dir():
        world.make_model_of(place.base, SETS[name], rows, seed, folder)
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    if name == "before":
        place.nlls(seed).write_text(json.dumps(runs.nlls(model, tokenizer, rows)), encoding="utf-8")
    else:
        drops = _drops(place, model, tokenizer, seed).tolist()
        _drops_file(place, seed).write_text(json.dumps(drops), encoding="utf-8")
    values, curve = measure(place, model, tokenizer, seed)
    experiment = {"model": name, "seed": seed, "world": world.settings(), "relearning": runs.RELEARNING}
    Record(experiment, values, run_facts(), curve).write(line_of(name, seed))


def do_variant(place: Place, name: str, seed: int) -> None:
    """Unlearns with a variant, and measures the model."""
    variant, rows, folder = VARIANTS[name], place.rows(seed), place.model("before", seed)
    start = time.perf_counter()
    options = {**options_of(SECOND), **variant.options}
    model = runs.unlearn(folder, options, LEARNING_RATE, seed, rows, place.work_dir / f"scan{seed}").model
    seconds = round(time.perf_counter() - start, 1)
    values, curve = measure(place, model, load_tokenizer(str(folder)), seed)
    experiment = {
        "variant": name,
        "seed": seed,
        "options": variant.options,
        "learning_rate": LEARNING_RATE,
        "unlearning": runs.UNLEARNING,
        "relearning": runs.RELEARNING,
    }
    Record(experiment, {**values, "seconds": seconds}, run_facts(), curve).write(line_of(name, seed))


def measure(place: Place, model: Any, tokenizer: Any, seed: int) -> tuple[dict[str, float | None], Any]:
    """What decides about a model, and its relearning curve."""
    rows = place.rows(seed)
    now, before = runs.nlls(model, tokenizer, rows), json.loads(place.nlls(seed).read_text(encoding="utf-8"))
    curve = runs.relearn(model, tokenizer, rows, seed)
    values: dict[str, float | None] = {
        **{f"l_{name}": statistics.fmean(each) for name, each in now.items()},
        "l_other": _mean_nll(model, _others(place), tokenizer),
        "l_holdout": _mean_nll(model, rows.holdout, tokenizer),
        "retain_rise": statistics.fmean(now["retain"]) - statistics.fmean(before["retain"]),
        "boundary_distance": runs.distance(now["forget"], now["proxy"]),
        "relearning_start": curve[0][1],
        "relearning_speed": relearning_speed(curve),
        "depth": None,
    }
    if _drops_file(place, seed).is_file():
        theirs = np.array(json.loads(_drops_file(place, seed).read_text(encoding="utf-8")))
        values["depth"] = float(np.nanmean(depth_scores(_drops(place, model, tokenizer, seed), theirs)))
    return values, curve


def _others(place: Place) -> list[Row]:
    """Rows that the base model was trained on, and that no run reads."""
    full, size = load_rows("tofu:full", place.data_dir), world.ROWS_AN_AUTHOR
    authors = world.BASE_AUTHORS[:NUM_OTHERS]
    return [row for author in authors for row in full[size * author : size * (author + 1)]]


def _mean_nll(model: Any, rows: list[Row], tokenizer: Any) -> float:
    return float(runs.nll(model, tokenize(rows, tokenizer, name="rows"), tokenizer).mean())


def _drops_file(place: Place, seed: int) -> Path:
    """What each layer of the retrained model costs the forget rows."""
    return place.work_dir / f"drops{seed}.json"


def _drops(place: Place, model: Any, tokenizer: Any, seed: int) -> np.ndarray:
    """Of every second forget row, what each of the model's layers costs it: see `layer_drops`."""
    forget = RowDataset(world.tokenized(place.rows(seed), tokenizer)["forget"].rows[::2])
    return layer_drops(model, load_model(str(place.model("before", seed))), tokenizer, forget, batch_size=32)


def pieces(place: Place, names: Sequence[str], seeds: Sequence[int]) -> list[Piece]:
    """Models before variants, the default first, one seed after the other."""
    todo = [(do_model, name, seed) for seed in seeds for name in MODELS]
    todo += [(do_variant, name, seed) for seed in seeds for name in dict.fromkeys((DEFAULT, *names))]
    return [
        Piece(f"{name} {seed}", (line_of(name, seed),), partial(do, place, name, seed))
        for do, name, seed in sorted(todo, key=lambda each: each[2])
    ]


def seeds_of(name: str) -> list[int]:
    """The seeds on which a variant, or one of `MODELS`, has results beside all that it is compared with."""
    compared = (name, DEFAULT, *MODELS)
    return [seed for seed in TUNING_SEEDS if all(line_of(each, seed).exists() for each in compared)]


def of_seed(name: str, seed: int) -> dict[str, float]:
    """What is told of a variant, or of one of `MODELS`, on a seed."""
    own, before, retrained = (_values(each, seed) for each in (name, *MODELS))
    return {
        "relearning": own["relearning_speed"] / retrained["relearning_speed"],
        "depth": own["depth"] or 0.0,  # that of the model before unlearning is not measured
        "l_forget": own["l_forget"] - retrained["l_forget"],
        "boundary_distance": own["boundary_distance"],
        "retain_rise": own["retain_rise"],
        "holdout_rise": own["l_holdout"] - before["l_holdout"],
        "other_rise": own["l_other"] - before["l_other"],
    }


def _values(name: str, seed: int) -> dict[str, Any]:
    return Record.read(line_of(name, seed)).values


def table() -> str:
    """All variants that have results, and the models that they are compared with.

    A change is the mean difference to the default on the same seeds, with the standard deviation of the differences.
    """
    heads = [[each.head, "change"] if each.with_change else [each.head] for each in COLUMNS.values()]
    rows = []
    for name in (*MODELS, *TITLES):
        seeds = seeds_of(name)
        found, default = [[of_seed(each, seed) for seed in seeds] for each in (name, DEFAULT)]
        if found:
            rows.append([TITLES.get(name, name), str(len(found))])
            for key, column in COLUMNS.items():
                rows[-1].append(_spread([each[key] for each in found], column.form))
                if column.with_change:
                    changes = [each[key] - other[key] for each, other in zip(found, default, strict=True)]
                    rows[-1].append("" if name == DEFAULT else _spread(changes, "+.2f"))
    return markdown.table(["variant", "seeds", *chain(*heads)], rows)


def _spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation (n - 1) over seeds; the value of a single seed alone.

    Example:
        >>> _spread([1.0, 2.0], "+.1f")
        '+1.5 ± 0.7'
    """
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):{form.lstrip('+')}}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what has no results yet, or writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resistance", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("resist_work"), help="Where models are kept.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Tuning seeds of the study.")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, help="By default all.")
    parser.add_argument("--report", action="store_true", help="Write docs/auditing.md's table, and do no more.")
    options = parser.parse_args(argv)
    if options.report:
        page = markdown.put(PAGE.read_text(encoding="utf-8"), "resistance", table())
        PAGE.write_text(page, encoding="utf-8")
    else:
        _run(options)
    print(table())


def _run(options: argparse.Namespace) -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    place = Place(options.data_dir, options.work_dir)
    do_base(place)
    while run_first_piece(pieces(place, options.variants, options.seeds)):
        pass


if __name__ == "__main__":
    main()
