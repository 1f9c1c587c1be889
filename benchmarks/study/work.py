"""What the study's pieces do: each adds lines to a table, and is skipped where these are there."""

import hashlib
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.study import runs, world
from benchmarks.study.methods import options_of
from benchmarks.study.plan import FEWEST_RETRAINED, RETRAINED, Record, RunSpec, Task, model_line
from benchmarks.tables import Line
from egup_trainer.audit.relearning import relearning_speed
from egup_trainer.errors import StateError
from egup_trainer.evaluation.evaluation import Evaluation, read_evaluation, write_evaluation
from egup_trainer.evaluation.relative import with_relations
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.records.facts import run_facts

SETS = {"before": ("forget", "retain"), "retrained": ("retain",)}
"""What the two kinds of model learn."""

COMPARED = (*RETRAINED[:FEWEST_RETRAINED], "before")
"""A seed's models without which no method can be judged, in the order in which they are."""


@dataclass(frozen=True)
class Place:
    """Where the study reads TOFU's files, and where it keeps models, which are too large to commit."""

    data_dir: str | None
    work_dir: Path

    @property
    def base(self) -> Path:
        return self.work_dir / "base"

    def model(self, name: str, seed: int, is_large: bool = False) -> Path:
        """Folder of a model; the retrained ones are the same for both forget sets."""
        large = is_large and name == "before"
        return self.work_dir / f"{name}_seed{seed}{'_large' if large else ''}"

    def evaluation(self, name: str, seed: int, is_large: bool = False) -> Path:
        return self.work_dir / f"{name}_seed{seed}{'_large' if is_large else ''}.json"

    def nlls(self, seed: int) -> Path:
        """l of a seed's rows under the model before unlearning."""
        return self.work_dir / f"before_seed{seed}.nll.json"

    def unlearned(self, spec: RunSpec) -> Path:
        return self.work_dir / "unlearned" / spec.name

    def rows(self, seed: int, is_large: bool = False) -> world.Rows:
        return world.rows_of(seed, self.data_dir, is_large)


def do_base(place: Place) -> None:
    """Trains the base model on all cores."""
    if not place.base.is_dir():
        place.work_dir.mkdir(parents=True, exist_ok=True)
        world.make_base(place.base, place.data_dir)


def do_before(place: Place, seed: int) -> None:
    """Trains a tuning seed's model before unlearning, and keeps l of its rows."""
    learn(place, "before", seed)
    folder = place.model("before", seed)
    found = runs.nlls(load_model(str(folder)), load_tokenizer(str(folder)), place.rows(seed))
    place.nlls(seed).write_text(json.dumps(found), encoding="utf-8")


def do_compared(place: Place, seed: int, is_large: bool = False) -> None:
    """Trains and evaluates the models of a seed without which no method can be judged."""
    for name in COMPARED:
        learn(place, name, seed, is_large)
    _evaluate_base(place, seed, is_large)
    for name in COMPARED:
        _evaluate_model(place, name, seed, is_large)


def do_retrained_again(place: Place, names: Iterable[str], seed: int) -> None:
    """Trains and evaluates more of `RETRAINED`, besides the models that they are compared with."""
    do_compared(place, seed)
    for name in names:
        learn(place, name, seed)
        _evaluate_model(place, name, seed, is_large=False)


def try_rate(place: Place, spec: RunSpec) -> None:
    """Unlearns, and writes what the boundary rule sees of it; the model is not kept."""
    rows, folder = place.rows(spec.seed), place.model("before", spec.seed)
    start = time.perf_counter()
    trainer = _unlearn(place, spec, folder, rows)
    seconds = time.perf_counter() - start
    now = runs.nlls(trainer.model, trainer.processing_class, rows)
    before = json.loads(place.nlls(spec.seed).read_text(encoding="utf-8"))
    values: dict[str, float | None] = {
        "boundary_distance": runs.distance(now["forget"], now["proxy"]),
        "retain_rise": statistics.fmean(now["retain"]) - statistics.fmean(before["retain"]),
        "seconds": round(seconds, 1),
    }
    Record(_experiment(place, spec), values, run_facts()).write(spec.tried)


def evaluate(place: Place, spec: RunSpec) -> None:
    """Every metric of a run's model, and its relearning; unlearns first if the model is not there."""
    rows, large = place.rows(spec.seed, spec.task.is_large), spec.task.is_large
    start = time.perf_counter()
    folder = make_unlearned(place, spec)
    learned = time.perf_counter()
    values, curve = _values(place, spec.method, folder, spec.seed, large)
    values |= runs.wordings(load_model(str(folder)), load_tokenizer(str(folder)), rows)
    values |= {"seconds": round(learned - start, 1), "evaluation_seconds": round(time.perf_counter() - learned, 1)}
    Record(_experiment(place, spec), values, run_facts(), curve).write(spec.evaluated)


def make_unlearned(place: Place, spec: RunSpec) -> Path:
    """The folder of a run's model, which is made unless it is there."""
    folder, large = place.unlearned(spec), spec.task.is_large
    if not folder.is_dir():
        trainer = _unlearn(place, spec, place.model("before", spec.seed, large), place.rows(spec.seed, large))
        world.save(trainer.model, trainer.processing_class, folder)
    return folder


def _unlearn(place: Place, spec: RunSpec, folder: Path, rows: world.Rows) -> Any:
    """A trainer that has unlearned the forget rows, in one request or in a sequence of them."""
    options, scans = options_of(spec.method), place.work_dir / f"scan{spec.seed}"
    if "proxy_model" in options:
        options["proxy_model"] = str(place.base)
    if spec.task is not Task.SEQUENCE:
        return runs.unlearn(folder, options, spec.learning_rate, spec.seed, rows, scans)
    with TemporaryDirectory() as scratch:
        for number, request in enumerate(world.requests_of(rows)):
            trainer = runs.unlearn(folder, options, spec.learning_rate, spec.seed, request, scans)
            folder = Path(scratch) / str(number)
            world.save(trainer.model, trainer.processing_class, folder)
    return trainer


def learn(place: Place, name: str, seed: int, is_large: bool = False) -> None:
    """Trains a model if it is not there, and notes how long it took beside it."""
    folder = place.model(name, seed, is_large)
    if folder.is_dir():
        return
    start = time.perf_counter()
    kind, again = ("before", 0) if name == "before" else ("retrained", RETRAINED.index(name))
    rows = place.rows(seed, is_large and kind == "before")
    world.make_model_of(place.base, SETS[kind], rows, seed + 1000 * again, folder)
    (folder / "seconds.json").write_text(json.dumps(round(time.perf_counter() - start, 1)), encoding="utf-8")


def _evaluate_base(place: Place, seed: int, is_large: bool) -> None:
    """Evaluates the base model, which tells the reference attack how hard a row is in itself."""
    path = place.evaluation("base", seed, is_large)
    if not path.is_file():
        model, tokenizer = load_model(str(place.base)), load_tokenizer(str(place.base))
        write_evaluation(path, runs.evaluate(model, tokenizer, place.rows(seed, is_large), "base"))


def _evaluate_model(place: Place, name: str, seed: int, is_large: bool) -> None:
    """Every metric of a model that methods are compared with, and its relearning."""
    folder, line = place.model(name, seed, is_large), model_line(name, seed, is_large)
    experiment = {"model": name, "seed": seed, "weights": _digest(folder), "world": world.settings()}
    if line.exists() and Record.read(line).experiment["weights"] != experiment["weights"]:
        raise StateError(
            got=f"weights that are not those of {line.name}",
            expected="the model that the results so far were made with: a machine may train the same model otherwise",
            fix="name the --work_dir that has it, or delete benchmarks/results/study to start afresh",
        )
    if line.exists() and place.evaluation(name, seed, is_large).is_file():
        return
    values, curve = _values(place, name, folder, seed, is_large)
    if name in COMPARED:
        values |= runs.wordings(load_model(str(folder)), load_tokenizer(str(folder)), place.rows(seed, is_large))
    timed = folder / "seconds.json"
    values["seconds"] = json.loads(timed.read_text(encoding="utf-8")) if timed.is_file() else None
    Record({**experiment, "relearning": runs.RELEARNING}, values, run_facts(), curve).write(line)


def _values(place: Place, name: str, folder: Path, seed: int, is_large: bool) -> tuple[dict[str, Any], Any]:
    """All metrics of a model, compared with those that there are, and its relearning curve.

    A model that methods are compared with leaves its evaluation in a file. The generations are read by the first
    retrained model, its own by the second.
    """
    reader = RETRAINED[1] if name == RETRAINED[0] else RETRAINED[0]
    model, tokenizer, rows = load_model(str(folder)), load_tokenizer(str(folder)), place.rows(seed, is_large)
    evaluation = runs.evaluate(model, tokenizer, rows, name, load_model(str(place.model(reader, seed))))
    if name in ("before", *RETRAINED):
        write_evaluation(place.evaluation(name, seed, is_large), evaluation)
    found = with_relations(evaluation, **_others(place, name, seed, is_large))
    curve = runs.relearn(model, tokenizer, rows, seed)
    return {**found.values, "relearning_speed": relearning_speed(curve)}, curve


def _others(place: Place, name: str, seed: int, is_large: bool) -> dict[str, Evaluation]:
    """The evaluations that a model's is compared with, by their role."""
    roles = {"retrained": "retrained", "reference": "base"}
    if name not in ("before", *RETRAINED):
        roles["before"] = "before"
    return {role: read_evaluation(place.evaluation(other, seed, is_large)) for role, other in roles.items()}


def _experiment(place: Place, spec: RunSpec) -> dict[str, Any]:
    before = place.model("before", spec.seed, spec.task.is_large)
    return {
        **asdict(spec),
        "options": options_of(spec.method),
        "unlearning": runs.UNLEARNING,
        "relearning": runs.RELEARNING,
        "weights_before": _digest(before),
    }


def _digest(folder: Path) -> str:
    """Of a model's weights: the first 16 hexadecimal digits."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def lines_of(seed: int, is_large: bool = False) -> tuple[Line, ...]:
    """The results of `do_compared`."""
    return tuple(model_line(name, seed, is_large) for name in COMPARED)
