"""TOFU: fictitious authors to forget and to keep, real authors, world facts (Maini et al. 2024, arXiv 2401.06121)."""

from pathlib import Path
from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import ConfigError, did_you_mean
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.scores import RowRole, SetUse
from egup_trainer.evaluation.suites.suite import Suite

FORGET_SPLITS = ("forget01", "forget05", "forget10")


def tofu_suite(
    forget_split: str,
    data_dir: str | Path | None = None,
    holdout: str | list[Row] | None = None,
    template: Template | None = None,
    max_length: int = MAX_LENGTH,
    max_new_tokens: int = 200,
) -> Suite:
    """The TOFU suite.

    Args:
        forget_split: "forget01", "forget05" or "forget10"; the rows are those of its perturbed set.
        data_dir: folder with TOFU's files; without it they are read from the hub.
        holdout: rows, or a source of them, of the same kind that no model saw, for membership inference.
        template: markers for tokenizers without a chat template.
        max_length: maximum number of tokens in a text.
        max_new_tokens: maximum number of tokens in a generation.

    Raises:
        ConfigError: there is no such split.
        DataError: rows cannot be read.
    """
    if forget_split not in FORGET_SPLITS:
        raise ConfigError(
            got=f"forget_split={forget_split}",
            expected=f"one of {', '.join(FORGET_SPLITS)}",
            fix=did_you_mean(forget_split, FORGET_SPLITS, "set --forget_split"),
        )
    sources = {
        "forget": (f"{forget_split}_perturbed", RowRole.FORGET),
        "retain": ("retain_perturbed", RowRole.RETAIN),
        "real_authors": ("real_authors_perturbed", RowRole.CHOICE),
        "world_facts": ("world_facts_perturbed", RowRole.CHOICE),
    }
    shared: dict[str, Any] = {"template": template or Template(), "max_length": max_length}
    row_sets = [
        RowSet(
            name,
            load_rows(f"tofu:{source}", data_dir),
            use=SetUse(role, fluency=role is RowRole.FORGET),
            generation=Generation(max_new_tokens),
            with_features=role is not RowRole.CHOICE,
            with_membership=role is RowRole.FORGET and holdout is not None,
            **shared,
        )
        for name, (source, role) in sources.items()
    ]
    if holdout is not None:
        rows = load_rows(holdout, data_dir)
        row_sets.append(RowSet("holdout", rows, use=SetUse(RowRole.UNSEEN), with_membership=True, **shared))
    return Suite("tofu", forget_split, row_sets)
