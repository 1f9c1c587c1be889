"""One experiment: learn rows, forget some by several methods, compare with the model that never saw them."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.demo.twins import ModelSize, Schedule, learn, make_model, train_tokenizer
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows
from egup_trainer.report.run_record import ResultRow
from egup_trainer.trainer.callbacks import BarOnly
from egup_trainer.trainer.config import EGUPConfig
from egup_trainer.trainer.egup_trainer import EGUPTrainer

EVERYTHING_OFF = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Experiment:
    """Rows, model, schedules, and the methods to compare.

    Args:
        forget, retain, proxy: records; the models learn the first two, the twin the second.
        size: shape of the models.
        learning: how rows are learned.
        unlearning: how they are forgotten, the same for all methods.
        methods: `EGUPConfig` options by the name of the method.
        seed: of weights, orders and samples.
    """

    forget: list[dict]
    retain: list[dict]
    proxy: list[dict]
    size: ModelSize
    learning: Schedule
    unlearning: Schedule
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """All that decides the results but the rows themselves, for the record."""
        counts = {f"num_{name}": len(getattr(self, name)) for name in ("forget", "retain", "proxy")}
        parts = {name: asdict(getattr(self, name)) for name in ("size", "learning", "unlearning")}
        return {**counts, **parts, "methods": self.methods, "seed": self.seed}


def run(experiment: Experiment, say: Callable[[str], None]) -> list[ResultRow]:
    """Runs the experiment; the rows of the result are before, each method, retrained.

    Args:
        say: told what happens next.
    """
    tokenizer, rows = _tokenize(experiment)
    collator, seed = RowCollator(tokenizer), experiment.seed

    def measure(name: str, model: Any, seconds: float) -> ResultRow:
        metrics: Metrics = {}
        for part, dataset in rows.items():
            scores = score_rows(model, AnswerReader(model), dataset, collator, batch_size=32)
            metrics |= {f"{part}_probability": scores.probability, f"{part}_nll": scores.mean_nll.mean().item()}
        say(f"  p(forget) {metrics['forget_probability']:.2g}, p(retain) {metrics['retain_probability']:.3f}")
        return ResultRow(name, {**metrics, "seconds": seconds})

    with TemporaryDirectory() as folder:
        say(f"Training a small model on all {len(rows['forget']) + len(rows['retain'])} rows")
        start = time.perf_counter()
        untrained = make_model(tokenizer, experiment.size, seed)
        twin = copy.deepcopy(untrained)
        learned = learn(untrained, [rows["forget"], rows["retain"]], tokenizer, experiment.learning, folder, seed)
        results = [measure("before", learned, time.perf_counter() - start)]
        for name, options in experiment.methods.items():
            say(f"Unlearning {len(rows['forget'])} rows: {name}")
            start = time.perf_counter()
            model = _unlearn(copy.deepcopy(learned), rows, tokenizer, experiment, options, folder)
            results.append(measure(name, model, time.perf_counter() - start))
        say(f"Training the twin on the {len(rows['retain'])} retain rows alone, to compare with")
        start = time.perf_counter()
        twin = learn(twin, [rows["retain"]], tokenizer, experiment.learning, folder, seed)
        results.append(measure("retrained", twin, time.perf_counter() - start))
    return results


def _tokenize(experiment: Experiment) -> tuple[Any, dict[str, RowDataset]]:
    records = {name: getattr(experiment, name) for name in ("forget", "retain", "proxy")}
    learned = [*records["forget"], *records["retain"]]
    tokenizer = train_tokenizer(
        (record[part] for record in learned for part in ("question", "answer")), experiment.size.vocabulary
    )
    return tokenizer, {name: tokenize(load_rows(part), tokenizer, name=name) for name, part in records.items()}


def _unlearn(
    model: Any, rows: dict[str, RowDataset], tokenizer: Any, experiment: Experiment, options: dict, folder: str
) -> Any:
    schedule = experiment.unlearning
    args = EGUPConfig(
        output_dir=folder,
        num_train_epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        per_device_train_batch_size=schedule.batch_size,
        lr_scheduler_type="constant",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        seed=experiment.seed,
        scan_cache_dir=str(Path(folder) / "scan"),
        **options,
    )
    trainer = EGUPTrainer(model, args, rows["forget"], rows["retain"], rows["proxy"], processing_class=tokenizer)
    BarOnly.replace_in(trainer)
    trainer.train()
    return model
