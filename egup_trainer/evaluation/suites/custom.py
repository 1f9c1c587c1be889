"""A user's own rows: a forget set and, if available, a retain set and rows that no model saw."""

from typing import Any

from egup_trainer.data.exchange import with_exchanged_answers
from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, Row
from egup_trainer.evaluation.metrics.model_utility import UTILITY_PARTS
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
    neighbor: list[Row] | None = None,
) -> Suite:
    """All metrics on a user's own rows that the rows allow.

    Truth ratio, forget quality and model utility need wrong answers: those in the column `perturbed_answer` or, if no
    row has any, the answers of other rows to questions of the same kind (`with_exchanged_answers`). ROUGE needs
    prompts, membership inference needs holdout rows. Model utility is the harmonic mean of probability, ROUGE and truth
    ratio on the retain set.

    Args:
        forget: rows to forget.
        retain: rows to keep.
        holdout: rows of the same kind that no model saw.
        template: markers for tokenizers without a chat template.
        max_length: maximum number of tokens in a text.
        max_new_tokens: maximum number of tokens in a generation.
        neighbor: rows on things that are related to what is to be forgotten, which the model should still know. They
            have metrics of their own and do not count in model utility.
    """
    given = {"forget": forget, "retain": retain, "holdout": holdout, "neighbor": neighbor}
    sets = {name: rows for name, rows in given.items() if rows is not None}
    rows_of = with_exchanged_answers(sets)
    shared: dict[str, Any] = {
        "template": template or Template(),
        "max_length": max_length,
        "exchanged": rows_of != sets,
    }
    generation = Generation(max_new_tokens)
    uses = {
        "forget": SetUse(RowRole.FORGET, fluency=True),
        "retain": SetUse(RowRole.RETAIN),
        "holdout": SetUse(RowRole.UNSEEN, ("probability", "rouge")),
        "neighbor": SetUse(RowRole.NEIGHBOR, UTILITY_PARTS),
    }
    row_sets = [
        RowSet(
            name,
            rows,
            use=uses[name],
            generation=generation,
            with_features=name in ("forget", "retain"),
            with_membership=name in ("forget", "holdout") and holdout is not None,
            **shared,
        )
        for name, rows in rows_of.items()
    ]
    return Suite("custom", None, row_sets)
