"""The pieces of the comparison: each leaves a folder or files, and is skipped where these are there."""

import hashlib
import json
import shutil
import statistics
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from scipy.stats import ks_2samp
from torch.utils.data import ConcatDataset
from transformers import TrainingArguments

from benchmarks.pretrained.plan import CHOOSING_SEED, LEARNED, METHODS, PLANS, Method, Plan, Pretrained, Size
from benchmarks.pretrained.setups import RELEARNED_ROWS, SETUPS, Setup
from benchmarks.pretrained.start import save_start, save_whole
from benchmarks.pretrained.training import SAVING, AnswerTrainer, train_until
from benchmarks.runner import Piece
from benchmarks.study.plan import Record
from benchmarks.study.world import Rows, tokenized
from benchmarks.tables import Line
from egup_trainer.audit.relearning import Curve, relearning_curve, relearning_speed
from egup_trainer.callbacks.progress import BarOnly
from egup_trainer.config import EGUPConfig
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.egup import EGUPTrainer
from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.evaluation import Evaluation, read_evaluation, write_evaluation
from egup_trainer.evaluation.relative import with_relations
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.files import write_file
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.modeling.scan import score_rows
from egup_trainer.records.facts import run_facts

BEFORE, RETRAINED, RETRAINED_AGAIN = LEARNED
SETS = {BEFORE: ("forget", "retain"), RETRAINED: ("retain",), RETRAINED_AGAIN: ("retain",)}
"""What each of the models learns."""

OTHER_ORDER = 1000
"""Added to the seed that orders the rows of the second retrained model."""


@dataclass(frozen=True)
class Place:
    """A model, a size and a seed, where TOFU's files are read, and where models are kept: too large to commit."""

    which: Pretrained
    size: Size
    seed: int
    data_dir: str | None
    work_dir: Path

    @property
    def plan(self) -> Plan:
        return PLANS[self.which, self.size]

    @property
    def setup(self) -> Setup:
        return SETUPS[self.which, self.size]

    @property
    def start(self) -> Path:
        return self.work_dir / self.which.value / "start"

    @property
    def folder(self) -> Path:
        return self.work_dir / self.which.value / f"{self.size.value}_seed{self.seed}"

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def checkpoints(self, name: str) -> Path:
        return self.folder / "training" / name

    def evaluation(self, name: str) -> Path:
        return self.folder / "evaluations" / f"{name}.json"

    def curve(self, name: str) -> Path:
        return self.folder / "relearning" / f"{name}.json"

    @property
    def nlls(self) -> Path:
        return self.folder / "nlls_before.json"

    def record(self, name: str) -> Line:
        return self.plan.evaluated(name, self.seed)

    @cached_property
    def rows(self) -> Rows:
        return self.setup.rows(self.seed, self.data_dir)


def pieces_of(place: Place, deadline: float = inf) -> list[Piece]:
    """What there is to do with a seed, in order; nothing once all its results are there.

    Args:
        place: whose seed it is. `CHOOSING_SEED` tries learning rates; other seeds evaluate the methods whose rate has
            been chosen.
        deadline: a time of `time.monotonic` at which a training stops, to be continued by the next call.
    """
    pieces = choosing_pieces(place, deadline) if place.seed == CHOOSING_SEED else evaluating_pieces(place, deadline)
    unpack = Piece(f"Unpacking {place.which.value}", (place.start,), partial(save_start, place.which, place.start))
    return [unpack, *pieces] if pieces else []


def choosing_pieces(place: Place, deadline: float) -> list[Piece]:
    """Every method at every learning rate that has not been tried."""
    wanted = [(method, rate) for method in METHODS for rate in place.plan.untried(method)]
    if not wanted:
        return []
    return [
        _learning_piece(place, BEFORE, deadline),
        Piece("Scoring before", (place.nlls,), partial(score_before, place)),
        *(
            Piece(
                f"Trying {method.name} at {rate:g}",
                (place.plan.tried(method.name, rate),),
                partial(try_rate, place, method, rate, deadline),
            )
            for method, rate in wanted
        ),
    ]


def evaluating_pieces(place: Place, deadline: float) -> list[Piece]:
    """The models that learn rows, then the methods whose learning rate has been chosen."""
    ready = [method for method in METHODS if not place.plan.untried(method)]
    methods = [method for method in ready if not place.record(method.name).exists()]
    if not methods and all(place.record(name).exists() for name in LEARNED):
        return []
    pieces = [_learning_piece(place, name, deadline) for name in LEARNED]
    # Everything is compared with the retrained model's evaluation, which is therefore made first.
    for name in (RETRAINED, RETRAINED_AGAIN, BEFORE):
        pieces += _worth_pieces(place, name, (place.record(name), place.evaluation(name)))
    for method in methods:
        do = partial(unlearn, place, method, deadline)
        pieces.append(Piece(f"Unlearning with {method.name}", (place.model(method.name),), do))
        pieces += _worth_pieces(place, method.name, (place.record(method.name),), method)
    return pieces


def _learning_piece(place: Place, name: str, deadline: float) -> Piece:
    return Piece(f"Learning {name}", (place.model(name),), partial(learn, place, name, deadline))


def _worth_pieces(place: Place, name: str, results: tuple[Any, ...], method: Method | None = None) -> list[Piece]:
    return [
        Piece(f"Relearning {name}", (place.curve(name),), partial(relearn, place, name)),
        Piece(f"Evaluating {name}", results, partial(evaluate, place, name, method)),
    ]


def learn(place: Place, name: str, deadline: float) -> None:
    """Trains one of the models that learn rows, up to the deadline; saves it once it is done."""
    _train_and_save(place, name, make_learner(place, name), deadline)


def unlearn(place: Place, method: Method, deadline: float) -> None:
    """Unlearns at the chosen rate up to the deadline, and saves the model once it is done."""
    _train_and_save(place, method.name, make_unlearner(place, method, place.plan.chosen_rate(method)), deadline)


def _train_and_save(place: Place, name: str, trainer: Any, deadline: float) -> None:
    if train_until(trainer, deadline):
        save_whole(trainer.model, trainer.processing_class, place.model(name))
        shutil.rmtree(place.checkpoints(name))


def score_before(place: Place) -> None:
    """Writes l of the retain rows under the model before unlearning, which a rise is measured from."""
    model, tokenizer = load_model(str(place.model(BEFORE))), load_tokenizer(str(place.start))
    write_file(place.nlls, json.dumps(_nlls(place, model, tokenizer, ("retain",))), private=False)


def try_rate(place: Place, method: Method, rate: float, deadline: float) -> None:
    """Unlearns up to the deadline, and writes what the boundary rule sees once it is done; the model is not kept."""
    trainer = make_unlearner(place, method, rate)
    if not train_until(trainer, deadline):
        return
    now = _nlls(place, trainer.model, trainer.processing_class, ("forget", "retain", "proxy"))
    before = json.loads(place.nlls.read_text(encoding="utf-8"))
    values: dict[str, float | None] = {
        "boundary_distance": float(ks_2samp(now["forget"], now["proxy"]).statistic),
        "retain_rise": statistics.fmean(now["retain"]) - statistics.fmean(before["retain"]),
        "forget_l": statistics.fmean(now["forget"]),
        "proxy_l": statistics.fmean(now["proxy"]),
    }
    Record(_experiment(place, method.name, method, rate), values, run_facts()).write(
        place.plan.tried(method.name, rate)
    )
    shutil.rmtree(place.checkpoints(_run_name(place, method, rate)))


def _nlls(place: Place, model: Any, tokenizer: Any, names: tuple[str, ...]) -> dict[str, list[float]]:
    """l of each row of the named sets."""
    datasets, reader, collator = tokenized(place.rows, tokenizer), AnswerReader(model), RowCollator(tokenizer)

    def scores(name: str) -> list[float]:
        found = score_rows(model, reader, datasets[name], collator, batch_size=place.setup.batch_size)
        return found.mean_nll.tolist()

    return {name: scores(name) for name in names}


def make_learner(place: Place, name: str) -> AnswerTrainer:
    """A trainer of the start model on the rows that a model learns."""
    tokenizer = load_tokenizer(str(place.start))
    rows = tokenized(place.rows, tokenizer)
    dataset: Any = ConcatDataset([rows[each] for each in SETS[name]])
    seed = place.seed + (OTHER_ORDER if name == RETRAINED_AGAIN else 0)
    options = {**_options(place, name), **place.setup.learning, "seed": seed}
    args = TrainingArguments(**options, remove_unused_columns=False)
    model = _trainable(place, place.start)
    trainer = AnswerTrainer(model, args, RowCollator(tokenizer), train_dataset=dataset, processing_class=tokenizer)
    BarOnly.replace_in(trainer)
    return trainer


def make_unlearner(place: Place, method: Method, rate: float | None) -> EGUPTrainer:
    """A trainer that unlearns the forget rows with a method, starting from the model "before"."""
    folder = place.model(BEFORE)
    options = {
        **_options(place, _run_name(place, method, rate)),
        **place.setup.unlearning,
        "learning_rate": rate,
        **method.options(str(place.start)),
    }
    args = EGUPConfig(
        verdict=False,
        per_device_eval_batch_size=place.setup.batch_size,
        scan_cache_dir=str(place.folder / "scans"),
        **options,
    )
    datasets = {f"{name}_dataset": getattr(place.rows, name) for name in ("forget", "retain", "proxy")}
    tokenizer = load_tokenizer(str(folder))
    trainer = EGUPTrainer(_trainable(place, folder), args, processing_class=tokenizer, **datasets)
    BarOnly.replace_in(trainer)
    return trainer


def _run_name(place: Place, method: Method, rate: float | None) -> str:
    """The name of a method's checkpoints: several rates are tried with one seed."""
    return f"{method.name}_{rate:g}" if place.seed == CHOOSING_SEED else method.name


def _options(place: Place, name: str) -> dict[str, Any]:
    """Options of both kinds of training.

    Raises:
        ConfigError: the size takes a GPU, and there is none.
    """
    if place.setup.on_gpu and not torch.cuda.is_available():
        raise ConfigError(got=f"--size {place.size.value} without a GPU", expected="a GPU", fix="choose --size small")
    return {
        "output_dir": str(place.checkpoints(name)),
        "seed": place.seed,
        "bf16": place.setup.on_gpu,
        "use_cpu": not place.setup.on_gpu,
        "logging_strategy": "no",
        "report_to": "none",
        **SAVING,
    }


def _trainable(place: Place, folder: Path) -> Any:
    model = load_model(str(folder))
    model.get_input_embeddings().requires_grad_(not place.setup.freeze_embeddings)
    return model


def relearn(place: Place, name: str) -> None:
    """Writes how likely the other forget rows become while a model is shown a few again."""
    model, tokenizer = load_model(str(place.model(name))), load_tokenizer(str(place.start))
    forget = tokenized(place.rows, tokenizer)["forget"].rows
    few, others = RowDataset(forget[:RELEARNED_ROWS]), RowDataset(forget[RELEARNED_ROWS:])
    curve = relearning_curve(model, tokenizer, few, others, seed=place.seed, **place.setup.relearning)
    write_file(place.curve(name), json.dumps(curve), private=False)


def evaluate(place: Place, name: str, method: Method | None = None) -> None:
    """Writes every metric of a model, in its evaluation and its record.

    A retrained model reads the generations: the model before unlearning would find likely what is to be forgotten. The
    first one's own are read by the second, as a model finds its own words likelier than others' are.
    """
    # On a CPU, autocast would round the vocabulary's embeddings anew for every token that is written.
    accelerator = Accelerator(mixed_precision="bf16") if place.setup.on_gpu else None
    device = accelerator.device if accelerator else torch.device("cpu")
    reader = RETRAINED_AGAIN if name == RETRAINED else RETRAINED
    found = evaluate_model(
        load_model(str(place.model(name))).to(device),
        load_tokenizer(str(place.start)),
        place.setup.suite(place.rows, place.data_dir),
        ScoringOptions(batch_size=place.setup.batch_size),
        name=name,
        accelerator=accelerator,
        model_before=load_model(str(place.model(reader))).to(device),
    )
    curve: Curve = json.loads(place.curve(name).read_text(encoding="utf-8"))
    values = {**_related(place, found).values, "relearning_speed": relearning_speed(curve)}
    rate = None if method is None else place.plan.chosen_rate(method)
    experiment = {**_experiment(place, name, method, rate), "relearning": place.setup.relearning}
    Record(experiment, values, run_facts(), curve).write(place.record(name))
    write_evaluation(place.evaluation(name), found)


def _related(place: Place, found: Evaluation) -> Evaluation:
    """The evaluation compared with the retrained model's (its own, if it is that), a method's also with "before"."""
    if found.name == RETRAINED:
        return with_relations(found, retrained=found)
    compared = (RETRAINED,) if found.name in LEARNED else (BEFORE, RETRAINED)
    return with_relations(found, **{name: read_evaluation(place.evaluation(name)) for name in compared})


def _experiment(place: Place, name: str, method: Method | None, rate: float | None) -> dict[str, Any]:
    """What a record says of how its model was made."""
    setup, is_learned = place.setup, method is None
    weights = place.model(name if is_learned else BEFORE) / "model.safetensors"
    if method is None:
        made: dict[str, Any] = {"learning": setup.learning}
    else:
        made = {"unlearning": {**setup.unlearning, "learning_rate": rate}, "options": method.options(place.start.name)}
    return {
        "model": name,
        "size": place.size.value,
        "seed": place.seed,
        "rows": {key: len(rows) for key, rows in vars(place.rows).items()},
        "embeddings_frozen": setup.freeze_embeddings,
        "bf16": setup.on_gpu,
        **made,
        "weights" if is_learned else "weights_before": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
    }
