"""Membership inference: whether one can tell that rows were in the training set; and PrivLeak, which builds on it.

Each attack gives a row one number that is expected to be lower for members (forget rows) than for non-members (holdout
rows). Its metric is the area under the ROC curve between the two: 1 if the rows are fully memorised, 1/2 if they cannot
be distinguished from rows that no model saw.
"""

import math
from collections.abc import Callable

import numpy as np

from egup_trainer.evaluation.definitions import Definitions
from egup_trainer.evaluation.metric import Metric, auc_metric, finite, unavailable
from egup_trainer.evaluation.metric_registry import Direction, Measured, Reads, Section, suite_metric
from egup_trainer.evaluation.metrics.forget_quality import NO_HOLDOUT, NO_RETRAINED
from egup_trainer.evaluation.metrics.probability import EPSILON
from egup_trainer.evaluation.scores import SampleScores, SetScores

MIN_K = 0.4
"""Share of the least likely tokens that Min-K% looks at."""

Attack = Callable[[SampleScores], float | None]
ATTACKS: dict[str, Attack] = {}
"""The attacks that need one model, by the name of their metric."""
_NOT_READ: dict[str, str] = {}


def _attack(
    name: str, *, label: str, meaning: str, needs: str = "`--holdout`", not_read: str | None = None
) -> Callable[[Attack], Attack]:
    """Declares the metric of an attack that needs one model; `not_read` is the reason if its number was not read."""

    def declare(number: Attack) -> Attack:
        def metric(model: Measured) -> Metric:
            return attack(name, model.sets["forget"], model.sets.get("holdout"))

        metric.__doc__ = f"Area under the ROC curve of forget rows against holdout rows by {number.__doc__}"
        suite_metric(
            name,
            Section.MEMBERSHIP,
            label=label,
            meaning=meaning,
            direction=Direction.RETRAINED,
            needs=needs,
            reads=(Reads.MEMBERSHIP,),
        )(metric)
        ATTACKS[name] = number
        if not_read is not None:
            _NOT_READ[name] = not_read
        return number

    return declare


@_attack("mia_loss", label="Loss attack", meaning="AUC of forget against holdout rows by their loss; 0.5 is chance.")
def loss(row: SampleScores) -> float:
    """avg = L / n, the mean negative log-likelihood (Yeom et al. 2018, arXiv 1709.01604)."""
    return row.answers[0].mean_nll


@_attack("mia_zlib", label="Zlib attack", meaning="The same by the loss over the length of the compressed answer.")
def zlib_ratio(row: SampleScores) -> float | None:
    """avg / b, with b = bytes of the zlib-compressed answer text (Carlini et al. 2021, arXiv 2012.07805)."""
    return None if row.zlib_bytes is None else row.answers[0].mean_nll / row.zlib_bytes


@_attack("mia_min_k", label="Min-K% attack", meaning="The same by the least likely tokens.")
def min_k(row: SampleScores) -> float:
    """Min-K%: minus the mean of the lowest max(1, int(k n)) log-probabilities, k = 0.4 (Shi et al. 2024, arXiv
    2310.16789), of the n tokens before the one that closes the answer.
    """
    return lowest_mean(row.answers[0].recited.token_logps)


@_attack(
    "mia_min_k_plus_plus",
    label="Min-K%++ attack",
    meaning="The same by the least likely tokens, standardised.",
    not_read="standardised log-probabilities were not read",
)
def min_k_plus_plus(row: SampleScores) -> float | None:
    """Min-K%++: the same over z = (log p - mu) / sigma over the vocabulary (Zhang et al. 2024, arXiv 2404.02936)."""
    z = row.answers[0].recited.token_z
    return None if z is None else lowest_mean(z)


@_attack(
    "mia_gradnorm",
    label="Gradient attack",
    meaning="The same by the norm of the loss's gradient.",
    needs="`--holdout`, `--gradient_norms` (a backward pass per row)",
    not_read="gradient norms need a backward pass per row, and were not requested (--gradient_norms)",
)
def gradnorm(row: SampleScores) -> float | None:
    """|g| with g = the gradient of avg, without the token that closes the answer, over all floating-point weights
    (Wang et al. 2024, arXiv 2402.17012).
    """
    return row.gradient_norm


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
        return unavailable(NO_HOLDOUT, forget=members)
    others = _values(ATTACKS[name], holdout)
    if not members and not others:
        was_read = any(ATTACKS[name](row) is not None for rows in (forget, holdout) for row in rows.samples.values())
        return unavailable("no row has the number" if was_read else _NOT_READ.get(name, "no row has the number"))
    return auc_metric((forget.name, members), (holdout.name, others), num_rows=len(forget) + len(holdout))


@suite_metric(
    "mia_reference",
    Section.MEMBERSHIP,
    label="Reference attack",
    meaning="The same by the loss minus that of a reference model.",
    direction=Direction.RETRAINED,
    other="reference",
    needs="`--holdout`, `--reference`",
    reads=(),
    builds_on=("mia_loss",),
)
def reference_attack(model: Measured, reference: Measured | None) -> Metric:
    """Area under the ROC curve of forget rows against holdout rows by r = avg - avg' with avg' under a reference model
    (Carlini et al. 2021, arXiv 2012.07805).
    """
    if reference is None:
        return unavailable("no results of a reference model")
    losses, theirs = model.metrics["mia_loss"], reference.metrics["mia_loss"].values
    sets = {
        name: {
            sample: value - theirs[name][sample] for sample, value in values.items() if sample in theirs.get(name, {})
        }
        for name, values in losses.values.items()
    }
    if len(sets) < 2:
        return unavailable(losses.reason or "no holdout rows")
    members, others = sets.items()
    return auc_metric(members, others, num_rows=losses.num_samples + losses.num_skipped)


@suite_metric(
    "privleak",
    Section.MEMBERSHIP,
    label="PrivLeak",
    meaning="Min-K% attack against that on the retrained model, in percent; below 0: remembered.",
    direction=Direction.RETRAINED,
    other="retrained",
    needs="`--holdout`, `--retrained`",
    reads=(),
    builds_on=("mia_min_k",),
)
def privleak(model: Measured, retrained: Measured | None) -> Metric:
    """100 (a - r) / (r + 1e-10) with a = 1 - `mia_min_k` of the model and r = 1 - that of the retrained model.

    0 is the aim; below it rows are remembered, above it they are conspicuously unlikely (MUSE, Shi et al. 2024,
    arXiv 2407.06460).
    """
    auc = model.metrics["mia_min_k"]
    if auc.value is None:
        return unavailable(auc.reason or "no membership inference")
    theirs = None if retrained is None else retrained.metrics["mia_min_k"]
    if theirs is None and "forget" in model.sets and model.sets["forget"].use.definitions is not Definitions.OURS:
        theirs = Metric(0.5)  # OpenUnlearning takes chance where it knows no retrained model
    if theirs is None or theirs.value is None:
        reason = None if theirs is None else theirs.reason
        return unavailable(NO_RETRAINED if reason is None else f"the retrained model's results lack it: {reason}")
    ours, aim = 1 - auc.value, 1 - theirs.value
    value = 100 * (ours - aim) / (aim + EPSILON)
    return Metric(value, num_samples=auc.num_samples, num_skipped=auc.num_skipped)


def _values(number: Attack, scores: SetScores) -> dict[int, float]:
    found = {sample: number(row) for sample, row in scores.samples.items()}
    return finite({sample: value for sample, value in found.items() if value is not None})
