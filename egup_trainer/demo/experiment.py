"""One experiment: learn rows, forget some by several methods, compare with the model that never saw them."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from egup_trainer.callbacks.progress import BarOnly
from egup_trainer.config import EGUPConfig
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.demo.people import invent_people
from egup_trainer.demo.twins import ModelSize, Schedule, learn, make_model, train_tokenizer
from egup_trainer.egup import EGUPTrainer
from egup_trainer.evaluation.evaluation import Evaluation, write_evaluation
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.relative import with_relations
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows

METHODS: dict[str, dict[str, Any]] = {
    "gradient_difference": {"objective": "grad_diff", "proxy_constraint": False},
    "egup": {"learning_rate": None, "lr_scheduler_type": "linear"},  # as it is by default
}
"""The two methods that the demo compares: plain gradient difference, and what `EGUPConfig` is by default."""
_MAX_NEW_TOKENS = 40
"""No answer of the demo is longer."""
_EXAMPLES = 6
RESULTS_SCHEMA = 1
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Experiment:
    """Rows, model, schedules, and the methods to compare.

    The models learn forget and retain rows, their twin only the retain rows; neither a model nor a method sees those of
    `holdout`. The `EGUPConfig` options of a method replace those of `unlearning`, which all methods share.
    """

    forget: list[dict]
    retain: list[dict]
    proxy: list[dict]
    size: ModelSize
    learning: Schedule
    unlearning: Schedule
    holdout: list[dict] = field(default_factory=list)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """Everything that decides the results except the rows themselves, for the record."""
        counts = {f"num_{name}": len(getattr(self, name)) for name in ("forget", "retain", "proxy")}
        parts = {name: asdict(getattr(self, name)) for name in ("size", "learning", "unlearning")}
        return {**counts, **parts, "methods": self.methods, "seed": self.seed}


@dataclass(frozen=True)
class Trained:
    """A model ("before", a method's name, or "retrained"), and what the training of a method logged."""

    name: str
    model: Any
    seconds: float
    log_history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Prepared:
    """Tokenizer and tokenized rows of an experiment."""

    tokenizer: Any
    rows: dict[str, RowDataset]


def demo_experiment(seed: int = 0) -> Experiment:
    """Ten people to forget, thirty to keep, ten never seen as proxies, and ten never seen for evaluation."""
    return Experiment(
        **vars(invent_people(seed=seed)),
        size=ModelSize(),
        learning=Schedule(epochs=30, learning_rate=2e-3),
        unlearning=Schedule(epochs=20, learning_rate=5e-4),
        methods=METHODS,
        seed=seed,
    )


def prepare(experiment: Experiment) -> Prepared:
    """Trains the tokenizer on what the models learn, and tokenizes the rows."""
    records = {name: getattr(experiment, name) for name in ("forget", "retain", "proxy")}
    learned = [*records["forget"], *records["retain"]]
    tokenizer = train_tokenizer(
        (record[part] for record in learned for part in ("question", "answer")), experiment.size.vocabulary
    )
    rows = {name: tokenize(load_rows(part), tokenizer, name=name) for name, part in records.items()}
    return Prepared(tokenizer, rows)


def train_all(experiment: Experiment, prepared: Prepared, say: Callable[[str], None]) -> Iterator[Trained]:
    """The models, one after the other: before, each method, retrained; `say` is told what happens next."""
    tokenizer, rows, seed = prepared.tokenizer, prepared.rows, experiment.seed
    with TemporaryDirectory() as folder:
        say(f"Training a small model on all {len(rows['forget']) + len(rows['retain'])} rows")
        start = time.perf_counter()
        untrained = make_model(tokenizer, experiment.size, seed)
        twin = copy.deepcopy(untrained)
        learned = learn(untrained, [rows["forget"], rows["retain"]], tokenizer, experiment.learning, folder, seed)
        yield Trained("before", learned, time.perf_counter() - start)
        for name, options in experiment.methods.items():
            say(f"Unlearning {len(rows['forget'])} rows: {name}")
            start = time.perf_counter()
            model = copy.deepcopy(learned)
            history = _unlearn(model, prepared, experiment, options, folder)
            yield Trained(name, model, time.perf_counter() - start, history)
        say(f"Training the twin on the {len(rows['retain'])} retain rows alone, to compare with")
        start = time.perf_counter()
        twin = learn(twin, [rows["retain"]], tokenizer, experiment.learning, folder, seed)
        yield Trained("retrained", twin, time.perf_counter() - start)


def measure(trained: Trained, prepared: Prepared, names: Sequence[str] = ("forget", "retain", "proxy")) -> Evaluation:
    """Probability and NLL of the answers of each named row set, and the seconds that training took."""
    metrics: dict[str, Metric] = {}
    for name in names:
        dataset, collator = prepared.rows[name], RowCollator(prepared.tokenizer)
        scores = score_rows(trained.model, AnswerReader(trained.model), dataset, collator, batch_size=_BATCH_SIZE)
        metrics[f"{name}_probability"] = Metric(scores.probability, name != "forget")
        metrics[f"{name}_nll"] = Metric(scores.mean_nll.mean().item(), None)
    metrics["seconds"] = Metric(trained.seconds, None)
    return Evaluation(trained.name, "custom", None, {}, metrics, training=trained.log_history)


def results_document(results: Iterable[Evaluation], run: dict[str, Any]) -> dict[str, Any]:
    """The metrics of each model by name, and the facts of the run, as plain values for JSON."""
    rows = [{"name": each.name, "metrics": each.values} for each in results]
    return {"schema_version": RESULTS_SCHEMA, "rows": rows, "run": run}


def evaluate_all(
    experiment: Experiment, folder: Path, facts: dict[str, Any], say: Callable[[str], None]
) -> tuple[list[Evaluation], list[Evaluation]]:
    """Trains all models, and evaluates each on all metrics of its rows; the results are also written to the folder.

    The results hold a few generations: the people are invented, so their rows may be shown.

    Returns:
        What `measure` would return for each model, and the evaluations.
    """
    prepared, measured, evaluations, before = prepare(experiment), [], [], None
    forget, retain, holdout = map(load_rows, (experiment.forget, experiment.retain, experiment.holdout))
    suite = custom_suite(forget, retain, holdout, max_new_tokens=_MAX_NEW_TOKENS)
    for trained in train_all(experiment, prepared, say):
        before = before or trained.model
        found = evaluate_model(
            trained.model,
            prepared.tokenizer,
            suite,
            ScoringOptions(batch_size=_BATCH_SIZE),
            name=trained.name,
            model_before=before,  # judges how likely the generations are
            show_examples=_EXAMPLES,
        )
        proxies = measure(trained, prepared, ["proxy"])
        measured.append(replace(proxies, metrics={**_answers(found), **proxies.metrics}))
        run_facts = {**facts, "training_seconds": trained.seconds}
        evaluations.append(replace(found, training=trained.log_history, run=run_facts))
    say("Writing the report")
    first, last = evaluations[0], evaluations[-1]
    evaluations = [with_relations(each, retrained=last, before=first) for each in evaluations]
    for each in evaluations:
        write_evaluation(folder / f"{each.name}.json", each)
    return measured, evaluations


def _answers(evaluation: Evaluation) -> dict[str, Metric]:
    """The metrics of `measure` for the rows that were evaluated."""
    metrics: dict[str, Metric] = {}
    for name in ("forget", "retain"):
        probability = evaluation.metrics[f"{name}_probability"]
        nlls = [-math.log(each) for each in probability.values[name].values()]
        metrics |= {f"{name}_probability": probability, f"{name}_nll": Metric(sum(nlls) / len(nlls), None)}
    return metrics


def run(experiment: Experiment, say: Callable[[str], None]) -> list[Evaluation]:
    """Trains all models and measures each: before, each method, retrained."""
    prepared, results = prepare(experiment), []
    for trained in train_all(experiment, prepared, say):
        results.append(measure(trained, prepared))
        values = results[-1].values
        say(f"  p(forget) {values['forget_probability']:.2g}, p(retain) {values['retain_probability']:.3f}")
    return results


def _unlearn(
    model: Any, prepared: Prepared, experiment: Experiment, options: dict[str, Any], folder: str
) -> list[dict[str, Any]]:
    """Unlearns in place; returns what was logged."""
    schedule = experiment.unlearning
    shared: dict[str, Any] = {
        "num_train_epochs": schedule.epochs,
        "learning_rate": schedule.learning_rate,
        "per_device_train_batch_size": schedule.batch_size,
        "lr_scheduler_type": "constant",
    }
    args = EGUPConfig(
        output_dir=folder,
        logging_steps=4,
        save_strategy="no",
        report_to="none",
        verdict=False,
        seed=experiment.seed,
        scan_cache_dir=str(Path(folder) / "scan"),
        **{**shared, **options},
    )
    forget, retain, proxy = (prepared.rows[name] for name in ("forget", "retain", "proxy"))
    trainer = EGUPTrainer(model, args, forget, retain, proxy, processing_class=prepared.tokenizer)
    BarOnly.replace_in(trainer)
    trainer.train()
    return trainer.state.log_history
