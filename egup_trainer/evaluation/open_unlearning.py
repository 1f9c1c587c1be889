"""Reads the results files of OpenUnlearning (https://github.com/locuslab/open-unlearning) as an `Evaluation`.

Its evaluators write one file for a model, TOFU_EVAL.json or MUSE_EVAL.json. It has an entry for each metric:
`agg_value`, and `value_by_index` with the numbers of each row by its index, as text. An attack has two such parts,
`forget` and `holdout`, and their `auc`. Wrong answers of a row are lists, in the order of the answers:

    {"forget_Q_A_Prob": {"agg_value": 0.9, "value_by_index": {"0": {"prob": 0.9, "avg_loss": 0.1}, ...}},
     "forget_Q_A_PERT_Prob": {"value_by_index": {"0": {"prob": [0.1, 0.2], "avg_loss": [2.3, 1.6]}, ...}},
     "mia_min_k": {"forget": {"value_by_index": {"0": {"score": 1.2}, ...}}, "holdout": {...}, "auc": 0.4}, ...}

This is the layout of the code of 2025 (src/evals/base.py, src/evals/metrics) and of the files published with it. Such a
file names neither its rows nor its model.
"""

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from egup_trainer.errors import DataError
from egup_trainer.evaluation.definitions import Definitions, why_not_comparable
from egup_trainer.evaluation.evaluation import FRAMEWORK, Evaluation, SetFacts
from egup_trainer.evaluation.metric import Metric, auc_metric, mean_metric, unavailable
from egup_trainer.evaluation.metric_registry import declaration_of
from egup_trainer.evaluation.metrics.forget_quality import NO_RETRAINED, forget_quality
from egup_trainer.evaluation.metrics.rouge import MUSE_ROUGE, rouge_score
from egup_trainer.evaluation.metrics.truth_ratio import (
    TruthRatioForm,
    raw_truth_ratio,
    truth_ratio_value,
    truth_share,
)
from egup_trainer.evaluation.scores import RowRole

NAME = "OpenUnlearning"
SHORT_NAMES = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
"""What its metrics call the row sets of TOFU."""
ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm", "mia_reference")
_ROLES = {
    "forget": RowRole.FORGET,
    "retain": RowRole.RETAIN,
    "holdout": RowRole.UNSEEN,
    "real_authors": RowRole.CHOICE,
    "world_facts": RowRole.CHOICE,
    "forget_knowmem": RowRole.FORGET,
    "retain_knowmem": RowRole.RETAIN,
    "forget_verbmem": RowRole.FORGET,
}
MUSE_SETS = ("forget_knowmem", "retain_knowmem", "forget_verbmem")


def their_probability(set_name: str) -> str:
    """The metric of a TOFU set whose probabilities are ours: among options, where the set has them."""
    form = "_normalised" if _ROLES[set_name] is RowRole.CHOICE else ""
    return f"{SHORT_NAMES[set_name]}_Q_A_Prob{form}"


def their_truth_ratio(set_name: str) -> tuple[str, str, str]:
    """The metrics of a TOFU set with its truth ratios, and with the losses of the right and of the wrong answers."""
    short = SHORT_NAMES[set_name]
    right = f"{short}_Q_A_Prob" if _ROLES[set_name] is RowRole.CHOICE else f"{short}_Q_A_PARA_Prob"
    return "forget_truth_ratio" if set_name == "forget" else f"{short}_Truth_Ratio", right, f"{short}_Q_A_PERT_Prob"


_MARKS = frozenset(
    (
        *(f"{set_name}_ROUGE" for set_name in MUSE_SETS),
        *(f"{short}_Q_A_{what}" for short in SHORT_NAMES.values() for what in ("Prob", "ROUGE", "PERT_Prob")),
        *(their_truth_ratio(set_name)[0] for set_name in SHORT_NAMES),
        *("extraction_strength", "exact_memorization", *ATTACKS),
    )
)
"""Metrics by which a results file is known."""


def find_document(path: Path) -> dict[str, Any] | None:
    """The content of a results file of OpenUnlearning; None for a file that is something else or cannot be read."""
    document = None
    with suppress(OSError, ValueError, RecursionError):
        document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or "kind" in document:
        return None
    found = [document[name] for name in _MARKS & document.keys()]
    return document if found and all(isinstance(each, dict) and "agg_value" in each for each in found) else None


def from_document(document: Mapping[str, Any], path: Path, definitions: Definitions) -> Evaluation:
    """The results in such a file, under our names.

    Args:
        path: where it was; its folder is the name of the model.
        definitions: those that the metrics are to follow. With `Definitions.OURS`, a metric that OpenUnlearning defines
            in another way has no value, but a reason; ROUGE of MUSE is computed from the generations in the file.

    Raises:
        DataError: a metric is not laid out as above, or two metrics of the same rows have other indices.
    """
    is_muse = "MUSE_EVAL" in path.name or any(f"{name}_ROUGE" in document for name in MUSE_SETS)
    file = _File(document, path, "muse" if is_muse else "tofu", definitions)
    (_add_muse if is_muse else _add_tofu)(file)
    for name in ATTACKS:
        file.add_attack(name)
    if "mia_min_k" in document:
        file.put("privleak", unavailable(NO_RETRAINED))
    return Evaluation(
        name=path.resolve().parent.name or path.stem,
        suite=file.suite,
        split=None,
        sets={name: SetFacts(count, None) for name, count in file.num_rows.items()},
        metrics=file.metrics,
        settings=definitions.settings,
        run={FRAMEWORK: NAME, "file": str(path)},
    )


def _add_tofu(file: "_File") -> None:
    for set_name in SHORT_NAMES:
        file.add_mean(f"{set_name}_probability", set_name, their_probability(set_name), "prob")
        file.add_mean(f"{set_name}_rouge", set_name, f"{SHORT_NAMES[set_name]}_Q_A_ROUGE", "rougeL_recall")
        file.add_truth_ratios(set_name)
    for name in ("exact_memorization", "extraction_strength"):
        file.add_mean(f"forget_{name}", "forget", name, "score")
    theirs = file.document.get("model_utility")
    utility = _mean(_column(theirs, "agg_value"))
    if math.isfinite(utility):
        kept = sum(file.num_rows.get(name, 0) for name in SHORT_NAMES if name != "forget")
        file.put("model_utility", Metric(utility, num_samples=kept))


def _add_muse(file: "_File") -> None:
    for set_name in MUSE_SETS:
        theirs = f"{set_name}_ROUGE"
        if file.definitions is Definitions.OPEN_UNLEARNING:
            file.add_mean(f"{set_name}_rouge", set_name, theirs, "rougeL_f1")
        else:
            file.add_rouge(f"{set_name}_rouge", set_name, theirs)
    for name in ("exact_memorization", "extraction_strength"):
        file.add_mean(f"forget_verbmem_{name}", "forget_verbmem", name, "score")


@dataclass
class _File:
    """A results file, and what was read of it so far."""

    document: Mapping[str, Any]
    path: Path
    suite: str
    definitions: Definitions
    num_rows: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def add_mean(self, key: str, set_name: str, theirs: str, column: str) -> None:
        """A metric that is the mean of a column; a list of numbers counts as their mean."""
        if theirs in self.document:
            rows = self.rows(theirs, set_name)
            self.put(key, self._mean(set_name, {row: _mean(_column(entry, column)) for row, entry in rows.items()}))

    def add_rouge(self, key: str, set_name: str, theirs: str) -> None:
        """ROUGE of the generations in the file as we define it for MUSE; OpenUnlearning computes it with a stemmer."""
        if theirs not in self.document:
            return
        rows = self.rows(theirs, set_name)
        texts = {row: (_texts(entry, "ground_truth"), _texts(entry, "generation")) for row, entry in rows.items()}
        if not all(answers and len(answers) == len(written) for answers, written in texts.values()):
            self.put(key, unavailable("OpenUnlearning stems words, and its file has no generations to do without"))
            return
        values = {}
        for row, (answers, written) in texts.items():
            found = [rouge_score(*both, form=MUSE_ROUGE) for both in zip(answers, written, strict=True)]
            values[row] = max((value for value in found if value is not None), default=math.nan)
        self.put(key, self._mean(set_name, values))

    def add_truth_ratios(self, set_name: str) -> None:
        """Truth ratio, truth probability and, on the forget rows, what forget quality will be computed from."""
        theirs, right, wrong = their_truth_ratio(set_name)
        shares: dict[int, float] | None = None
        if {right, wrong} <= self.document.keys():
            losses = self._losses(self.rows(right, set_name), self.rows(wrong, set_name))
            ratios = {row: raw_truth_ratio(*both) if both[1] else math.nan for row, both in losses.items()}
            shares = {row: truth_share(*both) if both[1] else math.nan for row, both in losses.items()}
        elif theirs in self.document:
            ratios = {row: _mean(_column(entry, "score")) for row, entry in self.rows(theirs, set_name).items()}
        else:
            return
        form = TruthRatioForm.FORGET if set_name == "forget" else TruthRatioForm.TRUTH
        if shares is None:
            shares = {row: truth_ratio_value(ratio, TruthRatioForm.PROBABILITY) for row, ratio in ratios.items()}
        values = {row: truth_ratio_value(ratio, form) for row, ratio in ratios.items()}
        self.put(f"{set_name}_truth_ratio", self._mean(set_name, values))
        self.put(f"{set_name}_truth_probability", self._mean(set_name, shares))
        if set_name == "forget":
            self.put("forget_quality", forget_quality(ratios, None, self.num_rows[set_name]))

    def add_attack(self, name: str) -> None:
        """An attack, from its numbers on forget and holdout rows."""
        if name not in self.document:
            return
        parts = {}
        for set_name in ("forget", "holdout"):
            rows = self.rows(name, set_name, part=set_name)
            parts[set_name] = {row: _mean(_column(entry, "score")) for row, entry in rows.items()}
        low, high = parts.items()
        self.put(name, auc_metric(low, high, num_rows=sum(map(len, parts.values()))))

    def put(self, key: str, metric: Metric) -> None:
        """Keeps a metric under our name, with the direction that we declare, or the reason why it is not ours."""
        why = why_not_comparable(key, self.suite) if self.definitions is Definitions.OURS else None
        spec, set_name = declaration_of(key)
        direction = None if spec is None else spec.direction.higher_is_better(_ROLES.get(set_name))
        self.metrics[key] = replace(metric if why is None else unavailable(why), higher_is_better=direction)

    def rows(self, theirs: str, set_name: str, part: str | None = None) -> dict[int, Any]:
        """The entries of a metric by row, 0 and up; all metrics of a row set must have the same rows.

        Raises:
            DataError: there are none, they are laid out in another way, or other metrics have other rows.
        """
        found = self.document[theirs] if part is None else self.document[theirs].get(part)
        entries = found.get("value_by_index") if isinstance(found, Mapping) else None
        if not isinstance(entries, Mapping) or not entries:
            raise self._refuse(f"no value_by_index in {theirs}", "the numbers of each row by its index")
        if set(entries) != {str(row) for row in range(len(entries))}:
            raise self._refuse(f"indices in {theirs} that are not 0 to {len(entries) - 1}", "an index for each row")
        if self.num_rows.setdefault(set_name, len(entries)) != len(entries):
            expected = f"{self.num_rows[set_name]}, as in its other metrics of {set_name} rows"
            raise self._refuse(f"{len(entries)} rows in {theirs}", expected)
        return {row: entries[str(row)] for row in range(len(entries))}

    def _losses(self, right: Mapping[int, Any], wrong: Mapping[int, Any]) -> dict[int, tuple[float, list[float]]]:
        """avg of the right answer and of the wrong ones, by row.

        They do not depend on what the file calls a truth ratio, which has changed over the versions.
        """
        return {row: (_mean(_column(right[row], "avg_loss")), _column(wrong[row], "avg_loss")) for row in right}

    def _mean(self, set_name: str, values: Mapping[int, float]) -> Metric:
        return mean_metric(set_name, values, num_rows=len(values), without="no row has a number")

    def _refuse(self, got: str, expected: str) -> DataError:
        return DataError(got=f"{self.path} with {got}", expected=expected, fix=f"evaluate the model again with {NAME}")


def _column(entry: Any, name: str) -> list[float]:
    """The numbers of a row under a name: one, a list of them, or a list of entries with one each; empty if none."""
    parts = entry if isinstance(entry, list) else [entry]
    values = [value for part in parts if isinstance(part, Mapping) for value in _as_list(part.get(name))]
    return [number for value in values if (number := _number(value)) is not None]


def _texts(entry: Any, name: str) -> list[str]:
    """The texts of a row under a name: one, or one for each of several right answers; empty if there are none."""
    found = _as_list(entry.get(name)) if isinstance(entry, Mapping) else []
    return [text for text in found if isinstance(text, str)]


def _as_list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
