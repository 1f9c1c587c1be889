"""A user's own rows: a forget set and, if available, a retain set and rows that no model saw."""

from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, Row
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.scores import RowRole, SetUse
from egup_trainer.evaluation.suites.suite import Suite


def custom_suite(
    forget: list[Row],
    retain: list[Row] | None = None,
    holdout: list[Row] | None = None,
    template: Template | None = None,
    max_length: int = MAX_LENGTH,
    max_new_tokens: int = 200,
) -> Suite:
    """All metrics on a user's own rows that the rows allow.

    Truth ratio and forget quality need perturbed answers (the column `perturbed_answer`, and `paraphrased_answer` if
    available), ROUGE needs prompts, membership inference needs holdout rows. Model utility is the harmonic mean of
    probability, ROUGE and truth ratio on the retain set.

    Args:
        forget: rows to forget.
        retain: rows to keep.
        holdout: rows of the same kind that no model saw.
        template: markers for tokenizers without a chat template.
        max_length: maximum number of tokens in a text.
        max_new_tokens: maximum number of tokens in a generation.
    """
    shared: dict[str, Any] = {"template": template or Template(), "max_length": max_length}
    generation, members = Generation(max_new_tokens), holdout is not None
    use = SetUse(RowRole.FORGET, fluency=True)
    row_sets = [
        RowSet("forget", forget, use=use, generation=generation, with_features=True, with_membership=members, **shared)
    ]
    if retain is not None:
        row_sets.append(
            RowSet("retain", retain, use=SetUse(RowRole.RETAIN), generation=generation, with_features=True, **shared)
        )
    if holdout is not None:
        row_sets.append(RowSet("holdout", holdout, use=SetUse(RowRole.UNSEEN), with_membership=True, **shared))
    return Suite("custom", None, row_sets)
