"""TOFU: fictitious authors to forget and to keep, real authors, world facts (Maini et al. 2024, arXiv 2401.06121)."""

from pathlib import Path
from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import ConfigError, did_you_mean
from egup_trainer.evaluation.memorization import TOFU_ROUGE
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.suites import plan
from egup_trainer.evaluation.suites.plan import Plan, Scores, Suite
from egup_trainer.evaluation.utility import model_utility

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
        max_length: most tokens in a text.
        max_new_tokens: most tokens in a generation.

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
        "forget": f"tofu:{forget_split}_perturbed",
        "retain": "tofu:retain_perturbed",
        "real_authors": "tofu:real_authors_perturbed",
        "world_facts": "tofu:world_facts_perturbed",
    }
    shared: dict[str, Any] = {"template": template or Template(), "max_length": max_length}
    row_sets = [
        RowSet(
            name,
            load_rows(source, data_dir),
            generation=Generation(max_new_tokens),
            with_features=name in ("forget", "retain"),
            with_membership=name == "forget" and holdout is not None,
            with_fluency=name == "forget",
            **shared,
        )
        for name, source in sources.items()
    ]
    if holdout is not None:
        row_sets.append(RowSet("holdout", load_rows(holdout, data_dir), with_membership=True, **shared))
    return Suite("tofu", forget_split, row_sets, _plan)


def _plan(scores: Scores) -> Plan:
    forget, retain = scores["forget"], scores["retain"]
    return {
        **plan.knowledge(forget, is_forgotten=True, rouge=TOFU_ROUGE),
        **plan.likeness_to_retrained(forget),
        **plan.knowledge(retain, is_forgotten=False, rouge=TOFU_ROUGE),
        **plan.multiple_choice(scores["real_authors"], TOFU_ROUGE),
        **plan.multiple_choice(scores["world_facts"], TOFU_ROUGE),
        "model_utility": model_utility,
        **plan.membership(forget, scores.get("holdout")),
        **plan.language(forget),
        **plan.representation(forget, retain),
    }
