"""The study's pieces: each adds one line to a table, and is skipped where that line is there."""

import hashlib
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Piece
from benchmarks.study import runs, world
from benchmarks.study.methods import options_of
from benchmarks.study.plan import SEEDS, Record, RunSpec, chosen_runs, model_line, wordings_line
from benchmarks.tables import Line
from egup_trainer.audit.relearning import relearning_speed
from egup_trainer.errors import StateError
from egup_trainer.evaluation.evaluation import Evaluation, read_evaluation, write_evaluation
from egup_trainer.evaluation.relative import with_relations
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.records.facts import run_facts

SETS = {"before": ("forget", "retain"), "retrained": ("retain",)}
"""What each of a seed's two models learns."""


@dataclass(frozen=True)
class Place:
    """Where the study reads TOFU's files, and where it keeps models, which are too large to commit."""

    data_dir: str | None
    work_dir: Path

    @property
    def base(self) -> Path:
        return self.work_dir / "base"

    def model(self, name: str, seed: int) -> Path:
        return self.work_dir / f"{name}_seed{seed}"

    def evaluation(self, name: str, seed: int) -> Path:
        return self.work_dir / f"{name}_seed{seed}.json"

    def nlls(self, name: str, seed: int) -> Path:
        return self.work_dir / f"{name}_seed{seed}.nll.json"

    def unlearned(self, spec: RunSpec) -> Path:
        return self.work_dir / "unlearned" / spec.name

    def rows(self, seed: int) -> world.Rows:
        return world.rows_of(seed, self.data_dir)


def do_base(place: Place) -> None:
    """Trains the base model on all cores."""
    if not place.base.is_dir():
        place.work_dir.mkdir(parents=True, exist_ok=True)
        world.make_base(place.base, place.data_dir)


def model_pieces(place: Place) -> list[Piece]:
    """One for each model of each seed."""
    return [
        Piece(f"{name} {seed}", (place.evaluation(name, seed),), partial(do_model, place, name, seed))
        for seed in SEEDS
        for name in SETS
    ]


def do_model(place: Place, name: str, seed: int) -> None:
    """Trains and evaluates a seed's model before unlearning, or its retrained model."""
    folder, rows = place.model(name, seed), place.rows(seed)
    if not folder.is_dir():
        world.make_model_of(place.base, SETS[name], seed, folder, place.data_dir)
    experiment = {"model": name, "seed": seed, "weights": _digest(folder), "world": world.settings()}
    _refuse_other_weights(model_line(name, seed), experiment["weights"])
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    place.nlls(name, seed).write_text(json.dumps(runs.nlls(model, tokenizer, rows)), encoding="utf-8")
    curve = runs.relearn(model, tokenizer, rows, seed)
    evaluation = runs.evaluate(model, tokenizer, rows, name)
    write_evaluation(place.evaluation(name, seed), evaluation)
    _record_evaluation(model_line(name, seed), experiment, evaluation, curve)


def _refuse_other_weights(line: Line, weights: str) -> None:
    """Raises `StateError` where there are results of other weights: a machine may train the same model otherwise."""
    if line.exists() and Record.read(line).experiment["weights"] != weights:
        raise StateError(
            got=f"weights that are not those of {line.name}",
            expected="the model that the results so far were made with",
            fix="name the --work_dir that has it, or delete benchmarks/results/study to start afresh",
        )


def record_models(place: Place, seed: int) -> None:
    """Results of a seed's two models, each compared with the retrained one."""
    retrained = read_evaluation(place.evaluation("retrained", seed))
    for name in SETS:
        line = model_line(name, seed)
        found, evaluation = Record.read(line), read_evaluation(place.evaluation(name, seed))
        _record_evaluation(line, found.experiment, with_relations(evaluation, retrained=retrained), found.curve)


def train(place: Place, spec: RunSpec) -> None:
    """Unlearns, keeps the model, and writes what the boundary rule sees of it."""
    rows, folder, options = place.rows(spec.seed), place.model("before", spec.seed), options_of(spec.method)
    start = time.perf_counter()
    trainer = runs.unlearn(folder, options, spec.learning_rate, spec.seed, rows, place.work_dir / f"scan{spec.seed}")
    seconds = time.perf_counter() - start
    trainer.model.save_pretrained(place.unlearned(spec))
    now = runs.nlls(trainer.model, trainer.processing_class, rows)
    before, retrained = (json.loads(place.nlls(name, spec.seed).read_text()) for name in SETS)
    values: dict[str, float | None] = {
        "boundary_distance": runs.distance(now["forget"], now["proxy"]),
        "retain_rise": statistics.fmean(now["retain"]) - statistics.fmean(before["retain"]),
        "retrained_distance": runs.distance(now["forget"], retrained["forget"]),
        "seconds": round(seconds, 1),
    }
    Record({**_experiment(spec), "weights_before": _digest(folder)}, values, run_facts()).write(spec.trained)


def evaluate(place: Place, spec: RunSpec) -> None:
    """Every metric of a run's model, and its relearning; trains it first if it is not there."""
    folder, rows = place.unlearned(spec), place.rows(spec.seed)
    if not (folder.is_dir() and spec.trained.exists()):
        train(place, spec)
    before = load_model(str(place.model("before", spec.seed)))
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(place.base))
    curve = runs.relearn(model, tokenizer, rows, spec.seed)
    evaluation = with_relations(
        runs.evaluate(model, tokenizer, rows, spec.method, before),
        retrained=read_evaluation(place.evaluation("retrained", spec.seed)),
        before=read_evaluation(place.evaluation("before", spec.seed)),
    )
    _record_evaluation(spec.evaluated, _experiment(spec), evaluation, curve)


def read_wordings(place: Place, name: str, folder: Path, seed: int) -> None:
    """How likely a model finds the forget rows' answers in the wording that it learned, and in others."""
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(place.base))
    found = runs.wordings(model, tokenizer, place.rows(seed))
    Record({"model": name, "seed": seed}, found, run_facts()).write(wordings_line(name, seed))


def wording_pieces(place: Place, methods: Iterable[str]) -> list[Piece]:
    """The seeds' two models and those of some methods, as far as the models are there."""
    chosen = [spec for spec in chosen_runs() if spec.method in set(methods)]
    folders = [(spec.method, place.unlearned(spec), spec.seed) for spec in chosen]
    folders += [(name, place.model(name, seed), seed) for seed in SEEDS for name in SETS]
    return [
        Piece(name, (wordings_line(name, seed),), partial(read_wordings, place, name, folder, seed))
        for name, folder, seed in folders
        if folder.is_dir()
    ]


def _experiment(spec: RunSpec) -> dict[str, Any]:
    return {**asdict(spec), "options": options_of(spec.method), "unlearning": runs.UNLEARNING}


def _record_evaluation(line: Line, experiment: dict[str, Any], evaluation: Evaluation, curve: Any) -> None:
    values = {**evaluation.values, "relearning_speed": relearning_speed(curve)}
    Record({**experiment, "relearning": runs.RELEARNING}, values, run_facts(), curve).write(line)


def training_pieces(place: Place, specs: Iterable[RunSpec]) -> list[Piece]:
    """One training run each."""
    return [Piece(spec.name, (spec.trained,), partial(train, place, spec)) for spec in specs]


def evaluation_pieces(place: Place, specs: Iterable[RunSpec]) -> list[Piece]:
    """One evaluation each."""
    return [Piece(spec.name, (spec.evaluated,), partial(evaluate, place, spec)) for spec in specs]


def _digest(folder: Path) -> str:
    """Of a model's weights: the first 16 hexadecimal digits."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
