"""What each model learns and unlearns at each size: its rows, its suite, and its options of training."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.pretrained.plan import Pretrained, Size
from benchmarks.study.world import HOLDOUT_AUTHORS, PROXY_AUTHORS, ROWS_AN_AUTHOR, Rows, rows_of
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import load_rows
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.evaluation.suites.suite import Suite
from egup_trainer.evaluation.suites.tofu import tofu_suite

SMALL_RETAIN, SMALL_UNSEEN = 6 * ROWS_AN_AUTHOR, 2 * ROWS_AN_AUTHOR
"""Rows of the small size: those kept, and those of the proxies and of the holdout, each."""

SMALL_NEW_TOKENS = 40
RELEARNED_ROWS = 6
"""Forget rows that a model is shown again; the others are read."""


@dataclass(frozen=True)
class Setup:
    """How one model is treated at one size. Weights are float32.

    Args:
        rows: the rows of a seed, given TOFU's folder.
        suite: what models are evaluated on, given the rows and TOFU's folder.
        learning: `TrainingArguments` options of the models that learn rows.
        unlearning: `EGUPConfig` options that all methods share.
        relearning: options of `relearning_curve`.
        batch_size: rows in a forward pass that only scores.
        on_gpu: whether it takes a GPU, and runs in bfloat16 autocast. The CPU and float32 otherwise: on a CPU without
            instructions for it, bfloat16 takes nearly twice the time.
        freeze_embeddings: whether the vocabulary's embeddings, most of a small model's weights, stay as they are.
    """

    rows: Callable[[int, str | None], Rows]
    suite: Callable[[Rows, str | None], Suite]
    learning: dict[str, Any] = field(default_factory=dict)
    unlearning: dict[str, Any] = field(default_factory=dict)
    relearning: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    on_gpu: bool = False
    freeze_embeddings: bool = True


def small_rows(seed: int, data_dir: str | None) -> Rows:
    """A seed's authors of the study, fewer of them: 60 rows to forget, 120 to keep, 40 proxies, 40 of the holdout."""
    drawn = rows_of(seed, data_dir)
    judged = {row.answer for row in drawn.judged}
    # A stable sort: the judged authors first, so that they are among those kept.
    kept = sorted(drawn.retain, key=lambda row: row.answer not in judged)[:SMALL_RETAIN]
    return replace(drawn, retain=kept, proxy=drawn.proxy[:SMALL_UNSEEN], holdout=drawn.holdout[:SMALL_UNSEEN])


def small_suite(rows: Rows, data_dir: str | None) -> Suite:
    """All metrics on the drawn rows, which bring their own texts."""
    return custom_suite(rows.forget, rows.judged, rows.holdout, max_new_tokens=SMALL_NEW_TOKENS)


def full_rows(seed: int, data_dir: str | None) -> Rows:
    """TOFU's forget10 and retain90, of which authors 160 to 179 stay unseen: proxies and holdout. All seeds alike.

    TOFU gives all its authors to the model before unlearning; a boundary needs rows that it never saw.
    """
    retain = load_rows("tofu:retain90", data_dir)
    return Rows(
        forget=load_rows("tofu:forget10", data_dir),
        retain=_about(range(PROXY_AUTHORS.start), retain),
        proxy=_about(PROXY_AUTHORS, retain),
        holdout=_about(HOLDOUT_AUTHORS, retain),
        judged=load_rows("tofu:retain_perturbed", data_dir),
    )


def full_suite(rows: Rows, data_dir: str | None) -> Suite:
    """The TOFU suite for forget10, with rows that no model saw."""
    return tofu_suite("forget10", data_dir, holdout=rows.holdout)


def _about(authors: range, rows: list[Row]) -> list[Row]:
    return rows[ROWS_AN_AUTHOR * authors.start : ROWS_AN_AUTHOR * authors.stop]


SETUPS = {
    (Pretrained.SMOLLM2, Size.SMALL): Setup(
        small_rows,
        small_suite,
        learning={
            "num_train_epochs": 5,
            "learning_rate": 2e-4,
            "per_device_train_batch_size": 4,
            "lr_scheduler_type": "linear",
            "warmup_steps": 10,
        },
        unlearning={
            "num_train_epochs": 4,
            "per_device_train_batch_size": 4,
            "lr_scheduler_type": "linear",
            "warmup_steps": 6,
        },
        relearning={"steps": 12, "learning_rate": 1e-4, "batch_size": RELEARNED_ROWS, "every": 4},
    ),
    (Pretrained.GEMMA, Size.SMALL): Setup(
        small_rows,
        small_suite,
        learning={
            "num_train_epochs": 6,
            "learning_rate": 5e-5,
            "per_device_train_batch_size": 8,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 10,
        },
        unlearning={"num_train_epochs": 5, "per_device_train_batch_size": 4},
        relearning={"steps": 12, "learning_rate": 5e-5, "batch_size": RELEARNED_ROWS, "every": 4},
    ),
    (Pretrained.GEMMA, Size.FULL): Setup(
        full_rows,
        full_suite,
        learning={"num_train_epochs": 5, "learning_rate": 1e-5, "per_device_train_batch_size": 32},
        unlearning={"num_train_epochs": 10, "per_device_train_batch_size": 32},
        relearning={"steps": 12, "learning_rate": 1e-5, "batch_size": RELEARNED_ROWS, "every": 4},
        batch_size=32,
        on_gpu=True,
        freeze_embeddings=False,
    ),
}
