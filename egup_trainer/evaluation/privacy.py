"""Whether one can tell that rows were in the training set: membership inference, privleak, forget quality.

Each attack gives a row one number that is expected to be lower for members (forget rows) than for non-members (holdout
rows). Its metric is the area under the curve of telling them apart: 1 if the rows are fully memorised, 1/2 if they
cannot be told from rows never seen.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from egup_trainer.evaluation.memorization import EPSILON
from egup_trainer.evaluation.metric import NOT_FINITE, Metric, auc_metric, finite, unavailable
from egup_trainer.evaluation.scores import SampleScores, SetScores
from egup_trainer.modeling.ks_test import LEVEL, ks_p_value, least_p_value

MIN_K = 0.4
"""Share of the least likely tokens that Min-K% looks at."""

Attack = Callable[[SampleScores], float | None]


def loss(row: SampleScores) -> float:
    """avg = L / n, the mean negative log-likelihood (Yeom et al. 2018, arXiv 1709.01604)."""
    return row.answers[0].mean_nll


def zlib_ratio(row: SampleScores) -> float | None:
    """avg / b, with b = bytes of the zlib-compressed answer text (Carlini et al. 2021, arXiv 2012.07805)."""
    return None if row.zlib_bytes is None else row.answers[0].mean_nll / row.zlib_bytes


def min_k(row: SampleScores) -> float:
    """Min-K%: minus the mean of the lowest max(1, int(k n)) log-probabilities, k = 0.4 (Shi et al. 2024, arXiv
    2310.16789), of the n tokens before the one that closes the answer.
    """
    return lowest_mean(row.answers[0].recited.token_logps)


def min_k_plus_plus(row: SampleScores) -> float | None:
    """Min-K%++: the same over z = (log p - mu) / sigma (Zhang et al. 2024, arXiv 2404.02936)."""
    z = row.answers[0].recited.token_z
    return None if z is None else lowest_mean(z)


def gradnorm(row: SampleScores) -> float | None:
    """|g| with g = the gradient of avg, without the token that closes the answer, over all floating-point weights
    (Wang et al. 2024, arXiv 2402.17012).
    """
    return row.gradient_norm


ATTACKS: dict[str, Attack] = {
    "mia_loss": loss,
    "mia_zlib": zlib_ratio,
    "mia_min_k": min_k,
    "mia_min_k_plus_plus": min_k_plus_plus,
    "mia_gradnorm": gradnorm,
}
"""The attacks that need one model, by the name of their metric."""

_NEEDS = {
    "mia_gradnorm": "gradient norms cost a backward pass a row, and were not asked for",
    "mia_min_k_plus_plus": "standardised log-probabilities were not read",
}


def lowest_mean(values: np.ndarray, share: float = MIN_K) -> float:
    """Minus the mean of the lowest max(1, int(share n)) of n values; nan if one of them is or there are none.

    Example:
        >>> lowest_mean(np.array([-1.0, -4.0, -2.0, -3.0, -5.0]))
        4.5
    """
    if np.isnan(values).any() or not len(values):
        return math.nan
    count = max(1, int(share * len(values)))
    return float(-np.partition(values, count - 1)[:count].mean())


def attack(name: str, forget: SetScores, holdout: SetScores | None) -> Metric:
    """One of `ATTACKS`, by `auc_metric`: AUC = P(forget < holdout) + P(forget = holdout) / 2 of the rows' numbers."""
    members = _values(ATTACKS[name], forget)
    if holdout is None:
        return unavailable("no holdout rows (rows of the same kind that the model never saw)", None, forget=members)
    others = _values(ATTACKS[name], holdout)
    if not members and not others:
        was_read = any(ATTACKS[name](row) is not None for rows in (forget, holdout) for row in rows.samples.values())
        return unavailable("no row has the number" if was_read else _NEEDS.get(name, "no row has the number"), None)
    return auc_metric((forget.name, members), (holdout.name, others), num_rows=len(forget) + len(holdout))


def reference_attack(losses: Metric, reference_losses: Metric | None) -> Metric:
    """AUC of r = avg - avg' with avg' of a reference model (Carlini et al. 2021), from the `mia_loss` of both."""
    if reference_losses is None:
        return unavailable("no results of a reference model", None)
    sets = {
        name: {
            sample: value - reference_losses.values[name][sample]
            for sample, value in values.items()
            if sample in reference_losses.values.get(name, {})
        }
        for name, values in losses.values.items()
    }
    if len(sets) < 2:
        return unavailable(losses.reason or "no holdout rows", None)
    members, others = sets.items()
    return auc_metric(members, others, num_rows=losses.num_samples + losses.num_skipped)


def privleak(auc: Metric, retrained_auc: Metric | None) -> Metric:
    """100 (a - r) / (r + 1e-10) with a = 1 - AUC of the model and r = 1 - AUC of the retrained model, by Min-K%.

    0 is the aim; below it rows are remembered, above it they are conspicuously unlikely (MUSE, Shi et al. 2024,
    arXiv 2407.06460).
    """
    if auc.value is None:
        return unavailable(auc.reason or "no membership inference", None)
    if retrained_auc is None or retrained_auc.value is None:
        return unavailable(_no_retrained(retrained_auc), None)
    ours, theirs = 1 - auc.value, 1 - retrained_auc.value
    value = 100 * (ours - theirs) / (theirs + EPSILON)
    return Metric(value, None, num_samples=auc.num_samples, num_skipped=auc.num_skipped)


def forget_quality(
    ratios: Mapping[int, float], retrained_ratios: Mapping[int, float] | None, num_rows: int | None = None
) -> Metric:
    """p-value of the two-sided two-sample Kolmogorov-Smirnov test between both models' raw truth ratios.

    1 where the two cannot be told apart; undefined without a retrained model (TOFU, Maini et al. 2024), and for so few
    rows that no ratios at all could be told apart (`least_p_value`): three rows each, for example.

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
        reason = NOT_FINITE if ratios else "no forget row has perturbed answers"
        return unavailable(reason, True, num_skipped=rows)
    theirs = finite(retrained_ratios or {})
    if not theirs:
        reason = f"the retrained model's results lack it: {NOT_FINITE}" if retrained_ratios else _no_retrained(None)
        return unavailable(reason, True, num_skipped=rows, forget=kept)
    least = least_p_value(len(kept), len(theirs))
    if least > LEVEL:
        reason = (
            f"too few rows: of {len(kept)} and {len(theirs)} truth ratios the test's p-value is {least:.2g} or more, "
            "whatever they are"
        )
        return unavailable(reason, True, num_skipped=rows, forget=kept)
    value = ks_p_value(list(kept.values()), list(theirs.values()))
    return Metric(value, True, values={"forget": kept}, num_samples=len(kept), num_skipped=rows - len(kept))


def _values(number: Attack, scores: SetScores) -> dict[int, float]:
    found = {sample: number(row) for sample, row in scores.samples.items()}
    return finite({sample: value for sample, value in found.items() if value is not None})


def _no_retrained(auc: Metric | None) -> str:
    reason = "no results of a retrained model"
    return reason if auc is None or auc.reason is None else f"the retrained model's results lack it: {auc.reason}"
