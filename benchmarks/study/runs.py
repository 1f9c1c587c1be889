"""What a piece of the study does: unlearn with a method, and tell what the model then is worth."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.study.world import Rows, tokenized
from egup_trainer.audit.relearning import Curve, relearning_curve
from egup_trainer.config import EGUPConfig
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.egup import EGUPTrainer
from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.modeling.scan import score_rows

UNLEARNING: dict[str, Any] = {
    "num_train_epochs": 10,
    "per_device_train_batch_size": 4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 8,
    "retain_weight": 3.0,
}
"""Options that all methods share."""

RELEARNING: dict[str, Any] = {"steps": 20, "learning_rate": 5e-4, "batch_size": 6, "every": 5}
RELEARNED_ROWS = 6
"""Forget rows that a model is shown again; the others are read."""

MAX_NEW_TOKENS = 60


def unlearn(
    folder: Path,
    options: dict[str, Any],
    learning_rate: float,
    seed: int,
    rows: Rows,
    scans: Path,
    make_trainer: Callable[..., EGUPTrainer] = EGUPTrainer,
) -> EGUPTrainer:
    """A trainer that has unlearned the forget rows, starting from the model in `folder`.

    Args:
        folder: the model before unlearning, with its tokenizer.
        options: `EGUPConfig` options of the method.
        learning_rate: the initial one, unless it is among the options.
        seed: of the training.
        rows: the seed's rows.
        scans: folder that keeps scans for other runs from the same model.
        make_trainer: its class, or a subclass.
    """
    tokenizer = load_tokenizer(str(folder))
    datasets = {f"{name}_dataset": getattr(rows, name) for name in ("forget", "retain", "proxy")}
    with TemporaryDirectory() as scratch:
        args = EGUPConfig(
            output_dir=scratch,
            per_device_eval_batch_size=32,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            scan_cache_dir=str(scans),
            verdict=False,
            **{**UNLEARNING, "learning_rate": learning_rate, **options},
        )
        trainer = make_trainer(load_model(str(folder)), args, processing_class=tokenizer, **datasets)
        trainer.train()
    return trainer


def evaluate(model: Any, tokenizer: Any, rows: Rows, name: str, reader: Any = None) -> Evaluation:
    """All metrics on the seed's forget rows, judged retain rows and holdout rows.

    Args:
        model: the model.
        tokenizer: of all models.
        rows: the seed's rows.
        name: of the model.
        reader: a retrained model, under which the generations' perplexity is: what the model before unlearning would
            find likely is what is to be forgotten.
    """
    suite = custom_suite(rows.forget, rows.judged, rows.holdout, max_new_tokens=MAX_NEW_TOKENS)
    options = ScoringOptions(batch_size=32, with_gradient_norms=True, progress=False)
    return evaluate_model(model, tokenizer, suite, options, name=name, model_before=reader)


def relearn(model: Any, tokenizer: Any, rows: Rows, seed: int) -> Curve:
    """How likely the other forget rows become while the model is shown a few again."""
    forget = tokenized(rows, tokenizer)["forget"].rows
    few, others = RowDataset(forget[:RELEARNED_ROWS]), RowDataset(forget[RELEARNED_ROWS:])
    return relearning_curve(model, tokenizer, few, others, seed=seed, **RELEARNING)


def nlls(model: Any, tokenizer: Any, rows: Rows) -> dict[str, list[float]]:
    """l of each forget, retain and proxy row."""
    datasets = tokenized(rows, tokenizer)
    return {name: nll(model, dataset, tokenizer).tolist() for name, dataset in datasets.items()}


def wordings(model: Any, tokenizer: Any, rows: Rows) -> dict[str, float]:
    """Mean l of the forget rows' answers as learned, of their paraphrases, and of the wrong answers, nats a token."""
    texts: dict[str, list[Any]] = {
        "answer": [row.answer for row in rows.forget],
        "paraphrase": [row.paraphrase for row in rows.forget],
        "wrong": [text for row in rows.forget for text in row.perturbed],
    }
    found = {}
    for name, answers in texts.items():
        times = len(answers) // len(rows.forget)
        asked = [
            Row(row.prompt, answers[place * times + i]) for place, row in enumerate(rows.forget) for i in range(times)
        ]
        found[f"l_{name}"] = float(nll(model, tokenize(asked, tokenizer, name=name), tokenizer).mean())
    return found


def nll(model: Any, rows: RowDataset, tokenizer: Any) -> Any:
    """l of each row, shape (N,), nats per token."""
    return score_rows(model, AnswerReader(model), rows, RowCollator(tokenizer), batch_size=32).mean_nll


def distance(ours: list[float], theirs: list[float]) -> float:
    """Two-sample Kolmogorov-Smirnov distance, 0 to 1."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(ours, theirs).statistic)
