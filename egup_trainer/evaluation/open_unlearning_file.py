"""Writes an evaluation by OpenUnlearning's definitions in the layout of its own results files.

The layout is in `egup_trainer.evaluation.open_unlearning`, which reads such files. Texts of rows and generations, which
OpenUnlearning writes beside ROUGE, are left out.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.evaluation.metrics.rouge import THEIR_PARTS, their_rouge
from egup_trainer.evaluation.metrics.truth_ratio import raw_truth_ratios
from egup_trainer.evaluation.open_unlearning import (
    ATTACKS,
    MUSE_SETS,
    SHORT_NAMES,
    their_probability,
    their_truth_ratio,
)
from egup_trainer.evaluation.scores import RowRole, SampleScores, SetScores, TextScores

_SUITE_METRICS = ("model_utility", "forget_quality", "privleak")


def results_path(output: Path, suite: str) -> Path:
    """Where the results go in that layout, beside our own.

    Example:
        >>> results_path(Path("runs/npo.json"), "tofu").as_posix()
        'runs/npo.TOFU_EVAL.json'
    """
    return output.with_suffix(f".{suite.upper()}_EVAL.json")


def to_text(evaluation: Evaluation, scores: Mapping[str, SetScores]) -> str:
    """The results as JSON text, as OpenUnlearning's evaluators write them.

    Args:
        evaluation: by the definitions of OpenUnlearning.
        scores: what it was computed from, by row set.
    """
    document = to_document(evaluation, scores)
    return json.dumps(dict(sorted(document.items())), indent=4, allow_nan=False) + "\n"


def to_document(evaluation: Evaluation, scores: Mapping[str, SetScores]) -> dict[str, Any]:
    """The content of such a file: the metrics that the evaluation has, and what they are computed from."""
    document: dict[str, Any] = {}
    for name, rows in scores.items():
        if f"{name}_rouge" in evaluation.metrics:
            theirs = f"{name}_ROUGE" if name in MUSE_SETS else f"{SHORT_NAMES[name]}_Q_A_ROUGE"
            document[theirs] = _entry(rows, _rouge, THEIR_PARTS[rows.use.rouge.part])
    for name in SHORT_NAMES if evaluation.suite == "tofu" else ():
        if name in scores:
            document |= _answers(name, scores[name], evaluation)
    return document | _recited(evaluation) | _of_suite(evaluation)


def _recited(evaluation: Evaluation) -> dict[str, Any]:
    """Exact memorization and extraction strength, under names that do not say of which rows."""
    of_rows, document = "forget" if evaluation.suite == "tofu" else "forget_verbmem", {}
    for metric in ("exact_memorization", "extraction_strength"):
        found = evaluation.metrics.get(f"{of_rows}_{metric}")
        if found is not None and found.value is not None:
            values = found.values.get(of_rows, {})
            document[metric] = _of_values(values, evaluation.sets[of_rows].num_rows, found.value)
    return document


def _of_suite(evaluation: Evaluation) -> dict[str, Any]:
    """The attacks, and the metrics that are one number."""
    document: dict[str, Any] = {}
    for metric in (*ATTACKS, *_SUITE_METRICS):
        found = evaluation.metrics.get(metric)
        if found is None or found.value is None:
            continue
        document[metric] = {"agg_value": found.value}
        if metric in ATTACKS:
            sets = evaluation.sets
            parts = {
                name: _of_values(each, sets[name].num_rows, _mean(each.values())) for name, each in found.values.items()
            }
            document[metric] |= {**parts, "auc": found.value}
    return document


def _answers(name: str, rows: SetScores, evaluation: Evaluation) -> dict[str, Any]:
    """The metrics of a TOFU set that are made of the losses of right and wrong answers."""
    short, is_choice = SHORT_NAMES[name], rows.use.role is RowRole.CHOICE
    document = {f"{short}_Q_A_Prob": _entry(rows, lambda row: _of_text(row.answers[0]), "prob")}
    ratio, _, wrong = their_truth_ratio(name)
    if any(row.perturbed for row in rows.samples.values()):
        document[wrong] = _entry(rows, lambda row: _of_texts(row.perturbed), "prob")
    if any(row.paraphrase is not None for row in rows.samples.values()):
        document[f"{short}_Q_A_PARA_Prob"] = _entry(rows, lambda row: _of_text(row.paraphrase), "prob")
    shares = evaluation.metrics.get(f"{name}_probability")
    if is_choice and shares is not None and shares.value is not None:
        values = shares.values.get(name, {})
        document[their_probability(name)] = _of_values(values, len(rows), shares.value, "prob")
    ratios = evaluation.metrics.get(f"{name}_truth_ratio")
    if ratios is not None and ratios.value is not None:
        document[ratio] = _entry(rows, _ratio, "score") | {"agg_value": ratios.value}
    return document


def _entry(rows: SetScores, numbers: Callable[[SampleScores], dict[str, Any] | None], column: str) -> dict[str, Any]:
    """An entry with the numbers of each row, null where there are none, and the mean of a column."""
    by_index = {str(sample): numbers(row) for sample, row in rows.samples.items()}
    means = (_mean(np.atleast_1d(each[column])) for each in by_index.values() if each is not None)
    return {"agg_value": _mean(mean for mean in means if mean is not None), "value_by_index": by_index}


def _of_values(
    values: Mapping[int, float], num_rows: int, value: float | None, column: str = "score"
) -> dict[str, Any]:
    by_index = {str(row): {column: values.get(row)} for row in range(num_rows)}
    return {"agg_value": value, "value_by_index": by_index}


def _of_text(text: TextScores | None) -> dict[str, Any] | None:
    if text is None or not math.isfinite(text.mean_nll):
        return None
    return {"prob": text.probability, "avg_loss": text.mean_nll}


def _of_texts(texts: Iterable[TextScores]) -> dict[str, Any] | None:
    found = [_of_text(text) for text in texts]
    if not found or None in found:
        return None
    return {column: [each[column] for each in found if each is not None] for column in ("prob", "avg_loss")}


def _ratio(row: SampleScores) -> dict[str, Any] | None:
    value = raw_truth_ratios(SetScores("", {0: row})).get(0, math.nan)
    return {"score": value} if math.isfinite(value) else None


def _rouge(row: SampleScores) -> dict[str, Any] | None:
    if row.generation is None:
        return None
    found = [their_rouge(reference, row.generation) for reference in row.references]
    return found[0] if len(found) == 1 else {column: [each[column] for each in found] for column in found[0]}


def _mean(values: Iterable[float]) -> float | None:
    numbers = [float(value) for value in values if math.isfinite(value)]
    return float(np.mean(numbers)) if numbers else None
