"""How far forget and retain features overlap at a layer, and how far they moved from the model before unlearning."""

from collections.abc import Callable

import numpy as np

from egup_trainer.evaluation.metric import Metric, auc_metric, mean_metric, unavailable

_FOLDS = 5
_NO_FEATURES = "features were not read for both forget and retain rows"
_NOT_FINITE = "no features are finite numbers"
_SAME_MEAN = "forget and retain features have the same mean, so that the ratio is infinite"
_ONE_ROW = "one row of each set does not vary"
_FEWEST_FOR_CKA = 3
_NO_BEFORE = "no features of the model before unlearning"


def variance_ratio(forget: np.ndarray | None, retain: np.ndarray | None) -> Metric:
    """Entanglement score ES: variance within the two sets over the variance between them; higher is more entangled.

    ES = [mean_i |f_i - mu_f|^2 + mean_j |r_j - mu_r|^2] / (|mu_f - mu|^2 + |mu_r - mu|^2), with mu the mean over all
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


def probe_auc(forget: np.ndarray | None, retain: np.ndarray | None) -> Metric:
    """Area under the curve of a linear probe that tells forget from retain features, by 5-fold cross-validation.

    The probe is a logistic regression on standardised features (scikit-learn's default strength); each row is judged by
    a probe that did not see it.

    Args:
        forget, retain: features, shapes (F, d) and (R, d), or None.

    Example:
        >>> probe_auc(np.zeros((5, 1)), np.ones((5, 1))).value
        1.0
    """
    if forget is None or retain is None:
        return unavailable(_NO_FEATURES, None)
    num_rows = len(forget) + len(retain)
    forget, retain = _finite_rows(forget), _finite_rows(retain)
    if min(len(forget), len(retain)) < _FOLDS:
        return unavailable(f"a set has fewer than {_FOLDS} rows, one for each fold", None, num_skipped=num_rows)
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


def overlap(forget: np.ndarray | None, retain: np.ndarray | None) -> Metric:
    """Alignment of the two sets' covariances: 1 where they vary in the same directions, 0 where in none alike.

    tr(C_f C_r) / (|C_f|_F |C_r|_F), with C the covariance of a set's features about its own mean. It is the linear
    centred kernel alignment of the two sets, taken over what they share, which is dimensions and not rows.

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


def centred_kernel_alignment(features: np.ndarray | None, before: np.ndarray | None) -> Metric:
    """Linear CKA between the features of the same rows now and before unlearning: 1 where they are alike.

    |X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F) on centred features (Kornblith et al. 2019, arXiv 1905.00414); it does not see
    rotations and scalings of the whole space, which the model's next layer could undo.

    Args:
        features: of the rows under the model, (N, d), or None.
        before: of the same rows under the model before unlearning, or None.
    """
    if features is None:
        return unavailable(_NO_FEATURES, True)
    if before is None or len(before) != len(features):
        return unavailable(_NO_BEFORE, True)
    finite = np.isfinite(features).all(axis=1) & np.isfinite(before).all(axis=1)
    if not finite.any():
        return unavailable(_NOT_FINITE, True, num_skipped=len(features))
    if finite.sum() < _FEWEST_FOR_CKA:
        reason = f"fewer than {_FEWEST_FOR_CKA} rows have finite features: of two rows the alignment is always 1"
        return unavailable(reason, True, num_skipped=len(features))
    now, then = (rows[finite].astype(np.float64) for rows in (features, before))
    now, then = now - now.mean(axis=0), then - then.mean(axis=0)
    norms = np.linalg.norm(now.T @ now) * np.linalg.norm(then.T @ then)
    if norms == 0:
        return unavailable("all rows have the same features", True, num_skipped=len(features))
    value = np.linalg.norm(now.T @ then) ** 2 / norms
    return Metric(min(float(value), 1.0), True, num_samples=len(now), num_skipped=len(features) - len(now))


def retain_shift(retain: np.ndarray | None, before: np.ndarray | None) -> Metric:
    """mean_j 1 - cos(r_j, r_j before unlearning): how far retain features moved.

    Args:
        retain, before: features of the same rows, (R, d) each, or None.
    """
    if retain is None:
        return unavailable(_NO_FEATURES, False)
    if before is None or before.shape != retain.shape:
        return unavailable(_NO_BEFORE, False)
    now, then = retain.astype(np.float64), before.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a feature of length 0 has no direction: skipped as not finite
        cosine = (now * then).sum(axis=1) / (np.linalg.norm(now, axis=1) * np.linalg.norm(then, axis=1))
    values = dict(enumerate((1 - np.clip(cosine, -1, 1)).tolist()))
    return mean_metric(
        "retain", values, num_rows=len(retain), higher_is_better=False, without="there are no retain rows"
    )


def _of_both(
    forget: np.ndarray | None, retain: np.ndarray | None, number: Callable[[np.ndarray, np.ndarray], float | str]
) -> Metric:
    """A number of the finite rows of both sets, in float64; where it is a text, that is why there is none."""
    if forget is None or retain is None:
        return unavailable(_NO_FEATURES, None)
    sound = [_finite_rows(rows.astype(np.float64)) for rows in (forget, retain)]
    found = number(*sound) if all(map(len, sound)) else _NOT_FINITE
    if isinstance(found, str):
        return unavailable(found, None, num_skipped=len(forget) + len(retain))
    used = sum(map(len, sound))
    return Metric(found, None, num_samples=used, num_skipped=len(forget) + len(retain) - used)


def _finite_rows(features: np.ndarray) -> np.ndarray:
    return features[np.isfinite(features).all(axis=1)]
