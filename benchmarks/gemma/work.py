"""The pieces of the comparison: each leaves a folder or files, and is skipped where these are there."""

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainingArguments

from benchmarks.gemma.plan import METHODS, MODELS, record_line
from benchmarks.gemma.pretrained import save_start, save_whole
from benchmarks.gemma.setups import Setup
from benchmarks.gemma.training import SAVING, AnswerTrainer, train_until
from benchmarks.runner import Piece
from benchmarks.study.methods import options_of
from benchmarks.study.plan import Record
from benchmarks.study.work import SETS
from benchmarks.study.world import Rows, tokenized
from benchmarks.tables import Line
from egup_trainer.callbacks.progress import BarOnly
from egup_trainer.config import EGUPConfig
from egup_trainer.data.collator import RowCollator
from egup_trainer.egup import EGUPTrainer
from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.evaluation import Evaluation, read_evaluation, write_evaluation
from egup_trainer.evaluation.relative import with_relations
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.records.facts import run_facts


@dataclass(frozen=True)
class Place:
    """A size and a seed, where TOFU's files are read, and where models are kept, which are too large to commit."""

    setup: Setup
    seed: int
    data_dir: str | None
    work_dir: Path

    @property
    def start(self) -> Path:
        return self.work_dir / "start"

    @property
    def folder(self) -> Path:
        return self.work_dir / f"{self.setup.size.value}_seed{self.seed}"

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def checkpoints(self, name: str) -> Path:
        return self.folder / "training" / name

    def evaluation(self, name: str) -> Path:
        return self.folder / "evaluations" / f"{name}.json"

    def record(self, name: str) -> Line:
        return record_line(self.setup.size, name, self.seed)

    @cached_property
    def rows(self) -> Rows:
        return self.setup.rows(self.seed, self.data_dir)


def pieces_of(place: Place, deadline: float = inf) -> list[Piece]:
    """What there is to do, in order; nothing once every model and method has its results.

    Args:
        deadline: a time of `time.monotonic` at which a training stops, to be continued by the next call.
    """
    wanted = [name for name in (*MODELS, *METHODS) if not place.record(name).exists()]
    if not wanted:
        return []
    pieces = [Piece("Unpacking Gemma 3 270M", (place.start,), partial(save_start, place.start))]
    for name in dict.fromkeys((*MODELS, *wanted)):
        # Methods are compared with the two models' evaluations, not with their records alone.
        compared = (place.evaluation(name),) if name in MODELS else ()
        evaluated = (place.record(name), *compared)
        pieces.append(Piece(f"Training {name}", (place.model(name),), partial(train, place, name, deadline)))
        pieces.append(Piece(f"Evaluating {name}", evaluated, partial(evaluate, place, name)))
    return pieces


def train(place: Place, name: str, deadline: float) -> None:
    """Trains a model, or unlearns with a method, up to the deadline; saves the model once it is done."""
    trainer = make_learner(place, name) if name in MODELS else make_unlearner(place, name)
    if train_until(trainer, deadline):
        save_whole(trainer.model, trainer.processing_class, place.model(name))
        shutil.rmtree(place.checkpoints(name))


def make_learner(place: Place, name: str) -> AnswerTrainer:
    """A trainer of the start model on the rows that "before" or "retrained" learns."""
    tokenizer = load_tokenizer(str(place.start))
    rows = tokenized(place.rows, tokenizer)
    dataset: Any = torch.utils.data.ConcatDataset([rows[each] for each in SETS[name]])
    args = TrainingArguments(**_options(place, name), **place.setup.learning, remove_unused_columns=False)
    model = _trainable(place, place.start)
    trainer = AnswerTrainer(model, args, RowCollator(tokenizer), train_dataset=dataset, processing_class=tokenizer)
    BarOnly.replace_in(trainer)
    return trainer


def make_unlearner(place: Place, method: str) -> EGUPTrainer:
    """A trainer that unlearns the forget rows with a method, starting from the model "before"."""
    folder = place.model("before")
    args = EGUPConfig(
        **_options(place, method),
        **place.setup.unlearning,
        **options_of(method),
        per_device_eval_batch_size=place.setup.batch_size,
        scan_cache_dir=str(place.folder / "scans"),
    )
    datasets = {f"{name}_dataset": getattr(place.rows, name) for name in ("forget", "retain", "proxy")}
    tokenizer = load_tokenizer(str(folder))
    trainer = EGUPTrainer(_trainable(place, folder), args, processing_class=tokenizer, **datasets)
    BarOnly.replace_in(trainer)
    return trainer


def _options(place: Place, name: str) -> dict[str, Any]:
    """Options of both kinds of training.

    Raises:
        ConfigError: the size takes a GPU, and there is none.
    """
    if place.setup.on_gpu and not torch.cuda.is_available():
        raise ConfigError(
            got=f"--size {place.setup.size.value} without a GPU", expected="a GPU", fix="choose --size small"
        )
    return {
        "output_dir": str(place.checkpoints(name)),
        "seed": place.seed,
        "bf16": True,
        "use_cpu": not place.setup.on_gpu,
        "logging_strategy": "no",
        "report_to": "none",
        **SAVING,
    }


def _trainable(place: Place, folder: Path) -> Any:
    model = load_model(str(folder))
    model.get_input_embeddings().requires_grad_(not place.setup.freeze_embeddings)
    return model


def evaluate(place: Place, name: str) -> None:
    """Every metric of a model, in its evaluation and its record."""
    # On a CPU, autocast would round the vocabulary's embeddings anew for every token that is written.
    accelerator = Accelerator(mixed_precision="bf16") if place.setup.on_gpu else None
    device = accelerator.device if accelerator else torch.device("cpu")
    model = load_model(str(place.model(name))).to(device)
    before = None if name in MODELS else load_model(str(place.model("before"))).to(device)
    found = evaluate_model(
        model,
        load_tokenizer(str(place.start)),
        place.setup.suite(place.rows, place.data_dir),
        ScoringOptions(batch_size=place.setup.batch_size),
        name=name,
        accelerator=accelerator,
        model_before=before,
    )
    values = _related(place, found).values
    Record(_experiment(place, name), values, run_facts()).write(place.record(name))
    write_evaluation(place.evaluation(name), found)


def _related(place: Place, found: Evaluation) -> Evaluation:
    """The evaluation compared with the retrained model's (its own, if it is that), a method's also with "before"."""
    if found.name == "retrained":
        return with_relations(found, retrained=found)
    compared = ("retrained",) if found.name in MODELS else MODELS
    return with_relations(found, **{name: read_evaluation(place.evaluation(name)) for name in compared})


def _experiment(place: Place, name: str) -> dict[str, Any]:
    """What a record says of how its model was made."""
    setup, is_model = place.setup, name in MODELS
    made = {"learning": setup.learning} if is_model else {"unlearning": setup.unlearning, "options": options_of(name)}
    weights = place.model(name if is_model else "before") / "model.safetensors"
    return {
        "model": name,
        "size": setup.size.value,
        "seed": place.seed,
        "rows": {key: len(rows) for key, rows in vars(place.rows).items()},
        "embeddings_frozen": setup.freeze_embeddings,
        **made,
        "weights" if is_model else "weights_before": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
    }
