"""ROUGE: how much of the answer the model writes, by rouge-score over words of any script."""

from functools import cache
from typing import Any

import numpy as np

from egup_trainer.data.words import words_of
from egup_trainer.evaluation.definitions import Definitions
from egup_trainer.evaluation.metric import Metric, mean_metric
from egup_trainer.evaluation.metric_registry import KEPT_AND_FORGOTTEN, Direction, Reads, set_metric
from egup_trainer.evaluation.scores import RougeForm, RowRole, SetScores

TOFU_ROUGE = RougeForm()
MUSE_ROUGE = RougeForm(part="fmeasure", use_stemmer=False)
NO_WORDS = "no answer has words that ROUGE could count"


@set_metric(
    "rouge",
    label="ROUGE-L",
    meaning="Share of the answer's words that the generation has, in their order (MUSE: F1).",
    direction=Direction.KNOWLEDGE,
    roles=(*KEPT_AND_FORGOTTEN, RowRole.CHOICE),
    needs="rows with a prompt",
    reads=(Reads.GENERATIONS,),
)
def rouge(scores: SetScores) -> Metric:
    """mean_i of rouge-score of the greedy generation against the answer; several right answers: the best.

    ROUGE-L recall with a stemmer; MUSE: ROUGE-L F1 without. None for an answer without words.
    """
    written = {sample: row for sample, row in scores.samples.items() if row.generation is not None}
    values = {}
    for sample, row in written.items():
        if scores.use.definitions is Definitions.OPEN_UNLEARNING:
            of_answers = [their_rouge(reference, str(row.generation)) for reference in row.references]
            part = THEIR_PARTS[scores.use.rouge.part]
            values[sample] = float(np.mean([each[part] for each in of_answers]))
            continue
        found = [rouge_score(reference, str(row.generation), scores.use.rouge) for reference in row.references]
        numbers = [value for value in found if value is not None]
        if numbers:
            values[sample] = max(numbers)
    without = NO_WORDS if written else "no row has a generation"
    return mean_metric(scores.name, values, num_rows=len(scores), without=without)


def rouge_score(reference: str, generated: str, form: RougeForm = TOFU_ROUGE) -> float | None:
    """One ROUGE number, by rouge-score, over the words of `words_of`; None for a reference without words.

    Example:
        >>> rouge_score("in the old town", "in town"), rouge_score("東京", "東"), rouge_score("...", "...")
        (0.5, 0.5, None)
    """
    if not words_of(reference):
        return None
    return getattr(_scorer(form).score(reference, generated)[form.variant], form.part)


THEIR_PARTS = {"recall": "rougeL_recall", "fmeasure": "rougeL_f1"}
"""Names in OpenUnlearning's results of the parts of ROUGE-L."""


def their_rouge(reference: str, generated: str) -> dict[str, float]:
    """The three ROUGE numbers of OpenUnlearning: words of a to z and 0 to 9 alone, with a stemmer; 0 without words.

    Example:
        >>> their_rouge("in the old towns", "in town")
        {'rouge1_recall': 0.5, 'rougeL_f1': 0.6666666666666666, 'rougeL_recall': 0.5}
    """
    found = _their_scorer().score(reference, generated)
    return {
        "rouge1_recall": float(found["rouge1"].recall),
        "rougeL_f1": float(found["rougeL"].fmeasure),
        "rougeL_recall": float(found["rougeL"].recall),
    }


@cache
def _their_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


@cache
def _scorer(form: RougeForm) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([form.variant], tokenizer=_Words(form.use_stemmer))


class _Words:
    """The tokenizer of a `RougeScorer`: rouge-score's own knows only the letters a to z, and stems English words."""

    def __init__(self, use_stemmer: bool):
        from rouge_score.tokenizers import DefaultTokenizer

        self._english = DefaultTokenizer(use_stemmer)

    def tokenize(self, text: str) -> list[str]:
        words = ([word] if not word.isascii() else self._english.tokenize(word) for word in words_of(text))
        return [word for each in words for word in each]
