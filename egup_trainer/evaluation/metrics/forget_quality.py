"""Forget quality: whether a model's truth ratios can be distinguished from the retrained model's (TOFU)."""

from collections.abc import Mapping
from dataclasses import replace

from egup_trainer.evaluation.metric import NOT_FINITE, Metric, finite, unavailable
from egup_trainer.evaluation.metric_registry import Direction, Measured, Reads, Section, suite_metric
from egup_trainer.evaluation.metrics.truth_ratio import raw_truth_ratios
from egup_trainer.modeling.ks_test import LEVEL, ks_p_value, least_p_value

NO_RETRAINED = "no results of a retrained model"
NO_HOLDOUT = "no holdout rows (rows of the same kind that the model never saw)"


@suite_metric(
    "forget_quality",
    Section.SUMMARY,
    label="Forget quality",
    meaning="p-value of a KS test of truth ratios against the retrained model's.",
    direction=Direction.HIGHER,
    other="retrained",
    needs="`--retrained`, rows with wrong answers",
    reads=(Reads.OTHER_ANSWERS,),
    builds_on=("forget_quality",),  # the retrained model's
)
def _forget_quality(model: Measured, retrained: Measured | None) -> Metric:
    """p-value of the two-sided two-sample Kolmogorov-Smirnov test between the raw TR of the model and of the retrained
    model; 1 where the two cannot be distinguished (Maini et al. 2024, arXiv 2401.06121). None where the rows are so few
    that the test could not distinguish any numbers: its least p-value, 2 / C(n + m, n), is above 0.05 (three rows or
    fewer on both sides).
    """
    # Without a retrained model the metric holds the truth ratios that it will be computed from.
    ratios = raw_truth_ratios(model.sets["forget"]) if model.sets else _kept(model)
    return forget_quality(ratios, None if retrained is None else _kept(retrained), model.num_rows["forget"])


@suite_metric(
    "forget_quality_by_holdout",
    Section.MEMBERSHIP,
    label="Forget quality, by holdout rows",
    meaning="p-value of a KS test of the truth ratios of forget rows against those of holdout rows.",
    direction=Direction.HIGHER,
    needs="`--holdout`, wrong answers of both sets' rows",
    reads=(Reads.OTHER_ANSWERS, Reads.HOLDOUT_ANSWERS),
)
def _forget_quality_by_holdout(model: Measured) -> Metric:
    """p-value of the same test between the raw TR of forget rows and of holdout rows, which no model saw, under the
    model itself: a yardstick for users without a retrained model (ours). It is only as good as the holdout rows are
    similar in kind to the forget rows.
    """
    holdout = model.sets.get("holdout")
    if holdout is None:
        return unavailable(NO_HOLDOUT)
    found = forget_quality(raw_truth_ratios(model.sets["forget"]), raw_truth_ratios(holdout), model.num_rows["forget"])
    reason = "no holdout row has wrong answers" if found.reason == NO_RETRAINED else found.reason
    return replace(found, reason=reason, values={})  # those of the forget rows are kept by forget quality


def forget_quality(
    ratios: Mapping[int, float], retrained_ratios: Mapping[int, float] | None, num_rows: int | None = None
) -> Metric:
    """The same from truth ratios.

    Args:
        ratios: raw truth ratios of the forget rows under the model, by sample id.
        retrained_ratios: those under the retrained model, or None if there is none.
        num_rows: rows of the forget set; by default as many as there are ratios.

    Example:
        >>> ratios = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}
        >>> forget_quality(ratios, ratios).value
        1.0
    """
    kept, rows = finite(ratios), len(ratios) if num_rows is None else num_rows
    if not kept:
        return unavailable(NOT_FINITE if ratios else "no forget row has perturbed answers", num_skipped=rows)
    theirs = finite(retrained_ratios or {})
    if not theirs:
        reason = f"the retrained model's results lack it: {NOT_FINITE}" if retrained_ratios else NO_RETRAINED
        return unavailable(reason, num_skipped=rows, forget=kept)
    least = least_p_value(len(kept), len(theirs))
    if least > LEVEL:
        reason = (
            f"too few rows: for {len(kept)} and {len(theirs)} truth ratios the p-value of the test is at least "
            f"{least:.2g}, whatever they are"
        )
        return unavailable(reason, num_skipped=rows, forget=kept)
    value = ks_p_value(list(kept.values()), list(theirs.values()))
    return Metric(value, values={"forget": kept}, num_samples=len(kept), num_skipped=rows - len(kept))


def _kept(model: Measured) -> Mapping[int, float]:
    return model.metrics["forget_quality"].values.get("forget", {})
