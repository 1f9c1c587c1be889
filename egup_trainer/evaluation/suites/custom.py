"""A user's own rows: a forget set, and, where they are at hand, a retain set and rows never seen."""

from functools import partial
from typing import Any

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, Row
from egup_trainer.evaluation.memorization import TOFU_ROUGE
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.suites import plan
from egup_trainer.evaluation.suites.plan import Plan, Scores, Suite
from egup_trainer.evaluation.utility import model_utility


def custom_suite(
    forget: list[Row],
    retain: list[Row] | None = None,
    holdout: list[Row] | None = None,
    template: Template | None = None,
    max_length: int = MAX_LENGTH,
    max_new_tokens: int = 200,
) -> Suite:
    """All metrics on a user's own rows, as far as the rows have what they need.

    Truth ratio and forget quality need perturbed answers (the column `perturbed_answer`, and `paraphrased_answer` if
    there is one), ROUGE needs prompts, membership inference needs holdout rows. Model utility is the harmonic mean of
    probability, ROUGE and truth ratio on the retain set.

    Args:
        forget: rows to forget.
        retain: rows to keep.
        holdout: rows of the same kind that no model saw.
        template: markers for tokenizers without a chat template.
        max_length: most tokens in a text.
        max_new_tokens: most tokens in a generation.
    """
    shared: dict[str, Any] = {"template": template or Template(), "max_length": max_length}
    generation, members = Generation(max_new_tokens), holdout is not None
    row_sets = [
        RowSet(
            "forget",
            forget,
            generation=generation,
            with_features=True,
            with_membership=members,
            with_fluency=True,
            **shared,
        )
    ]
    if retain is not None:
        row_sets.append(RowSet("retain", retain, generation=generation, with_features=True, **shared))
    if holdout is not None:
        row_sets.append(RowSet("holdout", holdout, with_membership=True, **shared))
    return Suite("custom", None, row_sets, _plan)


def _plan(scores: Scores) -> Plan:
    forget, retain = scores["forget"], scores.get("retain")
    kept = {} if retain is None else plan.knowledge(retain, is_forgotten=False, rouge=TOFU_ROUGE)
    return {
        **plan.knowledge(forget, is_forgotten=True, rouge=TOFU_ROUGE),
        **plan.likeness_to_retrained(forget),
        **kept,
        "model_utility": partial(model_utility, sets=("retain",)),
        **plan.membership(forget, scores.get("holdout")),
        **plan.language(forget),
        **plan.representation(forget, retain),
    }
