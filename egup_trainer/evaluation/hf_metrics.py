"""Forget quality, truth ratio and model utility as modules of Hugging Face's `evaluate`.

They take per-sample numbers and use the functions behind `egup evaluate`. Nothing is downloaded, and rows stay in
memory.

With several processes (`num_process`, `process_id`), `evaluate` passes rows through files in its cache folder, and the
first process gets the result. Synchronise the processes before you use a module again: `evaluate` does not, and the
next rows would overwrite those that have not been read yet. Its `combine` works in one process only.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from datasets import Features, Value

from egup_trainer.errors import DataError, choose
from egup_trainer.evaluation.metrics.forget_quality import forget_quality
from egup_trainer.evaluation.metrics.model_utility import UTILITY_PARTS, harmonic_mean
from egup_trainer.evaluation.metrics.truth_ratio import TruthRatioForm, truth_ratio_value
from egup_trainer.extras import require_extra

try:
    from evaluate import Metric, MetricInfo
except ImportError:
    require_extra("evaluation", "egup_trainer.evaluation.hf_metrics")
    raise

_CITATION = "Maini et al. 2024, TOFU: A Task of Fictitious Unlearning for LLMs, arXiv 2401.06121"


class _SampleMetric(Metric):
    """Base of the modules: it checks rows before it adds them, and ignores columns of other modules.

    Args:
        options: those of `evaluate.Metric`, such as `num_process`, `process_id`, `experiment_id` and `cache_dir`.
    """

    numbers: ClassVar[Mapping[str, float]]
    """Columns of numbers, each with its largest possible value; the smallest is 0."""
    names: ClassVar[tuple[str, ...]] = ()
    """Columns of text."""

    def __init__(self, **options: Any):
        super().__init__(**{"keep_in_memory": options.get("num_process", 1) == 1, **options})

    def _info(self) -> MetricInfo:
        columns = {**dict.fromkeys(self.names, Value("string")), **dict.fromkeys(self.numbers, Value("float64"))}
        return MetricInfo(
            description=str(type(self).__doc__),
            citation=_CITATION,
            inputs_description=f"Columns, one value per row: {', '.join(columns)}.",
            features=Features(columns),
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> dict[str, float] | None:
        """The metric over the rows given here and those added before; None on any process but the first.

        Raises:
            DataError: there are no rows, a column is missing, or a value is out of range.
        """
        given = {"predictions": predictions, "references": references, **columns}
        if any(given.get(name) is not None for name in self._feature_names()):
            self.add_batch(**given)
        if not len(self):
            raise DataError(got=f"no rows for {self.name}", expected="at least one", fix="add rows before compute()")
        return super().compute()

    def add_batch(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> None:
        """Adds rows, given as columns: lists, arrays or tensors of one dimension. See `compute` for errors."""
        given = {"predictions": predictions, "references": references, **columns}
        kept = {name: self._checked(name, given.get(name)) for name in self._feature_names()}
        lengths = {len(column) for column in kept.values()}
        if len(lengths) > 1:
            raise DataError(
                got=f"columns of {' and '.join(f'{len(column)} {name}' for name, column in kept.items())}",
                expected="columns of equal length",
                fix=f"give {self.name} one value of each column per row",
            )
        super().add_batch(**kept)

    def add(self, *, prediction: Any = None, reference: Any = None, **row: Any) -> None:
        """Adds one row. See `compute` for errors."""
        given = {"predictions": prediction, "references": reference, **row}
        self.add_batch(**{name: None if value is None else [value] for name, value in given.items()})

    def _checked(self, name: str, column: Any) -> list[Any]:
        if column is None:
            raise DataError(
                got=f"no {name}",
                expected=f"the columns {', '.join(self._feature_names())}",
                fix=f"give {name} to {self.name}",
            )
        return self._checked_numbers(name, column) if name in self.numbers else _checked_names(name, column)

    def _checked_numbers(self, name: str, column: Any) -> list[float]:
        most = self.numbers[name]
        expected = "finite numbers of at least 0" if most == math.inf else f"numbers from 0 to {most:g}"
        try:
            values = np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(
                got=f"{name} that are not numbers", expected=expected, fix="give one number per row"
            ) from None
        if values.ndim != 1:
            raise DataError(
                got=f"{name} of {values.ndim} dimensions", expected="one dimension", fix="give one number per row"
            )
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0) & (values <= most)))
        if len(wrong):
            raise DataError(
                got=f"{values[wrong[0]]:g} in row {wrong[0]} of {name}",
                expected=expected,
                fix="leave out rows without a value, and check how the other values were computed",
            )
        return values.tolist()


def _checked_names(name: str, column: Any) -> list[str]:
    if isinstance(column, str) or not all(isinstance(value, str) for value in column):
        raise DataError(
            got=f"a {name} that is not a list of strings", expected="one name per row", fix="give a list of names"
        )
    return list(column)


class ForgetQuality(_SampleMetric):
    """p-value of the Kolmogorov-Smirnov test between the raw truth ratios of a model and of the retrained model.

    1 if the two cannot be distinguished. Predictions are the model's raw truth ratios on the forget rows, references
    those of the retrained model; `evaluate` requires equally many. None for three rows or fewer, for which the test
    cannot distinguish any numbers.

    Example:
        >>> result = ForgetQuality().compute(predictions=[0.1, 0.2, 0.3, 0.4], references=[0.6, 0.7, 0.8, 0.9])
        >>> round(result["forget_quality"], 6)
        0.028571
    """

    numbers: ClassVar = {"predictions": math.inf, "references": math.inf}

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float | None]:
        ours, theirs = (dict(enumerate(ratios)) for ratios in (predictions, references))
        return {"forget_quality": forget_quality(ours, theirs).value}


class TruthRatio(_SampleMetric):
    """Mean truth ratio, from raw truth ratios TR = W / C of right (C) and wrong (W) answers' probabilities.

    Args:
        form: a `TruthRatioForm` or its value: "forget" for mean(min(TR, 1 / TR)), "truth" for mean(max(0, 1 - TR)),
            "probability" for mean(1 / (1 + TR)).
        options: those of `evaluate.Metric`.

    Raises:
        ConfigError: there is no such form.

    Example:
        >>> TruthRatio("truth").compute(predictions=[0.5, 0.25, 0.75, 2.0])
        {'truth_ratio': 0.375}
    """

    numbers: ClassVar = {"predictions": math.inf}

    def __init__(self, form: TruthRatioForm | str = TruthRatioForm.FORGET, **options: Any):
        self.form = choose(TruthRatioForm, form, "form")
        super().__init__(config_name=self.form.value, **options)

    def _compute(self, predictions: list[float]) -> dict[str, float]:
        return {"truth_ratio": float(np.mean([truth_ratio_value(ratio, self.form) for ratio in predictions]))}


class ModelUtility(_SampleMetric):
    """Harmonic mean of mean probability, ROUGE and truth ratio on each subset; 0 as soon as one of them is 0.

    One row per sample: the subset's name (TOFU's are retain, real_authors and world_facts), the probability (with
    options on real authors and world facts), the ROUGE-L recall and the raw truth ratio, which counts as
    max(0, 1 - TR).

    Returns:
        `model_utility`, and `SUBSET_probability`, `SUBSET_rouge` and `SUBSET_truth_ratio` of each subset in the rows.

    Example:
        >>> numbers = {"probability": [1.0], "rouge": [0.5], "truth_ratio": [0.75]}
        >>> round(ModelUtility().compute(subset=["retain"], **numbers)["model_utility"], 6)
        0.428571
    """

    numbers: ClassVar = {"probability": 1.0, "rouge": 1.0, "truth_ratio": math.inf}
    names: ClassVar = ("subset",)

    def _compute(self, subset: list[str], **columns: list[float]) -> dict[str, float]:
        truths = [truth_ratio_value(ratio, TruthRatioForm.TRUTH) for ratio in columns["truth_ratio"]]
        values = {**columns, "truth_ratio": truths}
        of_subset = np.asarray(subset)
        parts = {
            f"{name}_{part}": float(np.mean(np.asarray(values[part])[of_subset == name]))
            for name in dict.fromkeys(subset)
            for part in UTILITY_PARTS
        }
        return {"model_utility": harmonic_mean(parts.values()), **parts}
