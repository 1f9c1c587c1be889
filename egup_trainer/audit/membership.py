"""Membership inference: whether what the model says of forget rows still tells them from rows that it never saw."""

from egup_trainer.audit.audit import Finding
from egup_trainer.audit.target import Target
from egup_trainer.evaluation.metrics.membership_inference import attack

ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus")
"""Those of `egup evaluate` that cost one forward pass a row."""


def membership(target: Target) -> Finding:
    """Area under the curve of each attack: forget rows against holdout rows."""
    scores = target.score(*(target.row_set(name, with_membership=True) for name in ("forget", "holdout")))
    metrics = {name: attack(name, scores["forget"], scores["holdout"]) for name in ATTACKS}
    return Finding({name.removeprefix("mia_"): metric for name, metric in metrics.items()})
