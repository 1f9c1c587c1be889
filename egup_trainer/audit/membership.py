"""Membership: whether forget rows can still be distinguished from rows that the model never saw, by its output."""

from egup_trainer.audit.attack import Finding, Target
from egup_trainer.evaluation.metrics.membership_inference import attack

ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus")
"""The attacks of `egup evaluate` that need one forward pass per row."""


def membership(target: Target) -> Finding:
    """Area under the ROC curve of each attack, forget rows against holdout rows."""
    scores = target.score(*(target.row_set(name, with_membership=True) for name in ("forget", "holdout")))
    metrics = {name: attack(name, scores["forget"], scores["holdout"]) for name in ATTACKS}
    return Finding({name.removeprefix("mia_"): metric for name, metric in metrics.items()})
