"""Metrics from the evaluation logs of the original TOFU release: one file per model, per-sample losses by row number.

A log maps `eval_log.json` (retain), `eval_real_author_wo_options.json`, `eval_real_world_wo_options.json` and
`eval_log_forget.json` to `avg_gt_loss`, `average_perturb_loss`, `avg_paraphrased_loss` and `rougeL_recall`, each by
row.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from egup_trainer.errors import DataError
from egup_trainer.evaluation.metrics.forget_quality import forget_quality
from egup_trainer.evaluation.metrics.model_utility import harmonic_mean
from egup_trainer.evaluation.metrics.probability import EPSILON
from egup_trainer.evaluation.metrics.truth_ratio import TruthRatioForm, raw_truth_ratio, truth_ratio_value

_FORGET = "eval_log_forget.json"
_WITH_OPTIONS = {
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
_UTILITY = {"retain": "eval_log.json", **_WITH_OPTIONS}


def model_utility_from_tofu_log(log: Mapping[str, Any]) -> dict[str, float]:
    """Model utility and its nine parts from a log.

    Returns:
        `model_utility`, and `SET_probability`, `SET_rouge` and `SET_truth_ratio` for the sets retain, real_authors and
        world_facts.

    Raises:
        DataError: a part of the log is missing or malformed.

    Example:
        >>> # model_utility_from_tofu_log(json.load(open("phi_full.json")))["model_utility"]
    """
    parts: dict[str, float] = {}
    for name, file in _UTILITY.items():
        section = _Section(log, file)
        right, wrong = section.paired("avg_gt_loss")
        probabilities = {row: math.exp(-nll) for row, nll in right.items()}
        if name in _WITH_OPTIONS:
            probabilities = {
                row: share / (share + sum(math.exp(-nll) for nll in wrong[row]) + EPSILON)
                for row, share in probabilities.items()
            }
        ratios = (truth_ratio_value(ratio, TruthRatioForm.TRUTH) for ratio in section.truth_ratios().values())
        parts[f"{name}_probability"] = _mean(probabilities.values())
        parts[f"{name}_rouge"] = _mean(section.numbers("rougeL_recall", highest=1).values())
        parts[f"{name}_truth_ratio"] = _mean(ratios)
    return {"model_utility": harmonic_mean(parts.values()), **parts}


def forget_quality_from_tofu_logs(log: Mapping[str, Any], retrained_log: Mapping[str, Any]) -> float:
    """p-value of the Kolmogorov-Smirnov test between the truth ratios on the forget rows of two logs.

    Args:
        retrained_log: of the model trained without the forget set.

    Raises:
        DataError: a part of a log is missing or malformed.

    Example:
        >>> # forget_quality_from_tofu_logs(full, retain90)
    """
    ratios, theirs = (_Section(each, _FORGET).truth_ratios() for each in (log, retrained_log))
    found = forget_quality(ratios, theirs)
    if found.value is None:
        raise DataError(
            got=f"logs without forget quality ({found.reason})",
            expected="more rows in eval_log_forget.json",
            fix="provide complete logs",
        )
    return found.value


class _Section:
    """One file's part of a log, its rows in numeric order."""

    def __init__(self, log: Mapping[str, Any], file: str):
        if not isinstance(log, Mapping) or not isinstance(log.get(file), Mapping):
            raise DataError(
                got=f"a log without {file}",
                expected=f"the parts {', '.join([*_UTILITY.values(), _FORGET])}",
                fix="give a log of the TOFU release, as read from its JSON file",
            )
        self._file, self._columns = file, log[file]

    def numbers(self, name: str, highest: float = math.inf) -> dict[int, float]:
        """A column with one number per row: a loss, or a share if `highest` is 1."""
        rows = self._column(name, highest)
        for row, values in rows.items():
            if len(values) != 1:
                raise self._refuse(f"row {row} of {name} in {self._file} with {len(values)} numbers", "one number")
        return {row: values[0] for row, values in rows.items()}

    def lists(self, name: str) -> dict[int, list[float]]:
        """A column with several losses per row."""
        return self._column(name, math.inf)

    def truth_ratios(self) -> dict[int, float]:
        """Raw truth ratios by row."""
        right, wrong = self.paired("avg_paraphrased_loss")
        return {row: raw_truth_ratio(right[row], wrong[row]) for row in right}

    def paired(self, name: str) -> tuple[dict[int, float], dict[int, list[float]]]:
        """A column of right answers' losses, and those of the wrong answers to the same questions."""
        right, wrong = self.numbers(name), self.lists("average_perturb_loss")
        if right.keys() != wrong.keys():
            raise self._refuse(
                f"{len(right)} rows of {name}, {len(wrong)} of average_perturb_loss in {self._file}", "the same rows"
            )
        return right, wrong

    def _column(self, name: str, highest: float) -> dict[int, list[float]]:
        column = self._columns.get(name)
        if not isinstance(column, Mapping) or not column:
            raise self._refuse(f"no {name} in {self._file}", "a value for each row")
        try:
            rows = {int(row): np.atleast_1d(np.asarray(column[row], dtype=np.float64)) for row in column}
        except (TypeError, ValueError) as error:
            raise self._refuse(f"a row of {name} in {self._file} that is not numbers", "numbers by row") from error
        for row, values in rows.items():
            if values.ndim != 1 or not len(values) or np.isnan(values).any():
                raise self._refuse(f"row {row} of {name} in {self._file} without a number", "numbers")
            if values.min() < 0 or values.max() > highest:
                raise self._refuse(
                    f"row {row} of {name} in {self._file} out of range", f"numbers from 0 to {highest:g}"
                )
        return {row: rows[row].tolist() for row in sorted(rows)}

    def _refuse(self, got: str, expected: str) -> DataError:
        return DataError(got=got, expected=expected, fix="check the log")


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
