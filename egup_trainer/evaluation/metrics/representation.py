"""Entanglement: how far forget and retain features overlap at a layer, and how far they moved in unlearning."""

from collections.abc import Callable

import numpy as np

from egup_trainer.evaluation.metric import Metric, auc_metric, mean_metric, unavailable
from egup_trainer.evaluation.metric_registry import Direction, Measured, Reads, Section, suite_metric

Features = np.ndarray | None
Number = Callable[[Features, Features], Metric]
_FOLDS = 5
_NO_FEATURES = "features were not read for both forget and retain rows"
_NOT_FINITE = "no features are finite numbers"
_SAME_MEAN = "forget and retain features have the same mean, so that the ratio is infinite"
_ONE_ROW = "one row of each set does not vary"
_FEWEST_FOR_CKA = 3
_NO_BEFORE = "no features of the model before unlearning"


def _of_features(
    name: str, *, label: str, meaning: str, direction: Direction = Direction.RETRAINED, other: str | None = None
) -> Callable[[Number], Number]:
    """Declares a metric of forget and retain features; with `other`, of retain features of the two models."""

    def declare(number: Number) -> Number:
        def metric(model: Measured, before: Measured | None = None) -> Metric:
            retain = model.features.get("retain")
            if other is None:
                return number(model.features.get("forget"), retain)
            return number(retain, None if before is None else before.features.get("retain"))

        metric.__doc__ = number.__doc__
        needs = "retain rows" if other is None else "retain rows, `--before`"
        suite_metric(
            name,
            Section.REPRESENTATION,
            label=label,
            meaning=meaning,
            direction=direction,
            other=other,
            needs=needs,
            reads=(Reads.FEATURES,),
        )(metric)
        return number

    return declare


@_of_features(
    "entanglement_variance_ratio",
    label="Variance ratio",
    meaning="Variance within forget and retain features over that between them; higher is more entangled.",
)
def variance_ratio(forget: Features, retain: Features) -> Metric:
    """ES = [mean_i |f_i - mu_f|^2 + mean_j |r_j - mu_r|^2] / (|mu_f - mu|^2 + |mu_r - mu|^2), with mu the mean over all
    rows (Zhao et al. 2024, "What makes unlearning hard and what to do about it", arXiv 2406.01257).

    Args:
        forget, retain: features, shapes (F, d) and (R, d), or None.
    """

    def ratio(forget: np.ndarray, retain: np.ndarray) -> float | str:
        within = sum(np.square(rows - rows.mean(axis=0)).sum(axis=1).mean() for rows in (forget, retain))
        # The mean of all rows lies R / (F + R) of the way from the mean of the one set to that of the other.
        shares = np.array([len(forget), len(retain)]) / (len(forget) + len(retain))
        between = np.square(shares).sum() * np.square(forget.mean(axis=0) - retain.mean(axis=0)).sum()
        if not between:
            return _SAME_MEAN
        return float(within / between) if len(forget) + len(retain) > 2 else _ONE_ROW

    return _of_both(forget, retain, ratio)


@_of_features(
    "entanglement_probe_auc",
    label="Probe AUC",
    meaning="How well a linear probe distinguishes forget from retain features.",
)
def probe_auc(forget: Features, retain: Features) -> Metric:
    """Area under the ROC curve of a linear probe that distinguishes forget from retain features, by 5-fold
    cross-validation (no single source). The probe is a logistic regression on standardised features (scikit-learn's
    default strength); each row is judged by a probe that did not see it.

    Args:
        forget, retain: features, shapes (F, d) and (R, d), or None.

    Example:
        >>> probe_auc(np.zeros((5, 1)), np.ones((5, 1))).value
        1.0
    """
    if forget is None or retain is None:
        return unavailable(_NO_FEATURES)
    num_rows = len(forget) + len(retain)
    forget, retain = _finite_rows(forget), _finite_rows(retain)
    if min(len(forget), len(retain)) < _FOLDS:
        return unavailable(f"a set has fewer than {_FOLDS} rows, one for each fold", num_skipped=num_rows)
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    is_retain = np.repeat([0, 1], [len(forget), len(retain)])
    rows = np.concatenate([forget, retain])
    scores = cross_val_predict(probe, rows, is_retain, cv=folds, method="decision_function")
    return auc_metric(
        ("forget", dict(enumerate(scores[: len(forget)].tolist()))),
        ("retain", dict(enumerate(scores[len(forget) :].tolist()))),
        num_rows=num_rows,
    )


@_of_features(
    "entanglement_overlap",
    label="Overlap",
    meaning="Whether forget and retain features vary in the same directions; 1 is fully.",
)
def overlap(forget: Features, retain: Features) -> Metric:
    """Alignment of the two sets' covariances, tr(C_f C_r) / (|C_f|_F |C_r|_F): 1 where they vary in the same
    directions, 0 where they share none (ours). It is the linear centred kernel alignment of the two sets over the
    dimensions, which they share, instead of over rows.

    Args:
        forget, retain: features, shapes (F, d) and (R, d), or None.
    """

    def alignment(forget: np.ndarray, retain: np.ndarray) -> float | str:
        forget, retain = forget - forget.mean(axis=0), retain - retain.mean(axis=0)
        # |X_f X_r^T|^2 is tr(C_f C_r) up to the numbers of rows, which cancel; no matrix of d x d is made.
        norms = np.linalg.norm(forget @ forget.T) * np.linalg.norm(retain @ retain.T)
        shared = np.linalg.norm(forget @ retain.T) ** 2
        return float(shared / norms) if norms else "all rows of a set have the same features"

    return _of_both(forget, retain, alignment)


@_of_features(
    "entanglement_retain_cka",
    label="Retain CKA",
    meaning="Likeness of retain features to those of the initial model, by kernel alignment; 1 is the same.",
    direction=Direction.HIGHER,
    other="before",
)
def centred_kernel_alignment(features: Features, before: Features) -> Metric:
    """|X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F), the linear CKA of centred retain features now and before unlearning
    (Kornblith et al. 2019, arXiv 1905.00414). It ignores rotations and scalings of the whole space, which the model's
    next layer could undo. None for fewer than three rows: of two rows it is always 1.

    Args:
        features: of the rows under the model, (N, d), or None.
        before: of the same rows under the model before unlearning, or None.
    """
    if features is None:
        return unavailable(_NO_FEATURES)
    if before is None or len(before) != len(features):
        return unavailable(_NO_BEFORE)
    finite = np.isfinite(features).all(axis=1) & np.isfinite(before).all(axis=1)
    if not finite.any():
        return unavailable(_NOT_FINITE, num_skipped=len(features))
    if finite.sum() < _FEWEST_FOR_CKA:
        reason = f"fewer than {_FEWEST_FOR_CKA} rows have finite features: of two rows the alignment is always 1"
        return unavailable(reason, num_skipped=len(features))
    now, then = (rows[finite].astype(np.float64) for rows in (features, before))
    now, then = now - now.mean(axis=0), then - then.mean(axis=0)
    norms = np.linalg.norm(now.T @ now) * np.linalg.norm(then.T @ then)
    if norms == 0:
        return unavailable("all rows have the same features", num_skipped=len(features))
    value = np.linalg.norm(now.T @ then) ** 2 / norms
    return Metric(min(float(value), 1.0), num_samples=len(now), num_skipped=len(features) - len(now))


@_of_features(
    "entanglement_retain_shift",
    label="Retain shift",
    meaning="1 - cosine of retain features now and in the initial model.",
    direction=Direction.LOWER,
    other="before",
)
def retain_shift(retain: Features, before: Features) -> Metric:
    """mean_j 1 - cos(r_j, r_j before unlearning): how far retain features moved.

    Args:
        retain, before: features of the same rows, (R, d) each, or None.
    """
    if retain is None:
        return unavailable(_NO_FEATURES)
    if before is None or before.shape != retain.shape:
        return unavailable(_NO_BEFORE)
    now, then = retain.astype(np.float64), before.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a feature of length 0 has no direction: skipped as not finite
        cosine = (now * then).sum(axis=1) / (np.linalg.norm(now, axis=1) * np.linalg.norm(then, axis=1))
    values = dict(enumerate((1 - np.clip(cosine, -1, 1)).tolist()))
    return mean_metric("retain", values, num_rows=len(retain), without="there are no retain rows")


def _of_both(forget: Features, retain: Features, number: Callable[[np.ndarray, np.ndarray], float | str]) -> Metric:
    """A number of the finite rows of both sets, in float64; where it is a text, that is why there is none."""
    if forget is None or retain is None:
        return unavailable(_NO_FEATURES)
    sound = [_finite_rows(rows.astype(np.float64)) for rows in (forget, retain)]
    found = number(*sound) if all(map(len, sound)) else _NOT_FINITE
    if isinstance(found, str):
        return unavailable(found, num_skipped=len(forget) + len(retain))
    used = sum(map(len, sound))
    return Metric(found, num_samples=used, num_skipped=len(forget) + len(retain) - used)


def _finite_rows(features: np.ndarray) -> np.ndarray:
    return features[np.isfinite(features).all(axis=1)]
