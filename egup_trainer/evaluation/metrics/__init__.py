"""One file per metric or family. Importing this package declares them all, in the order of tables."""

# isort: off
from egup_trainer.evaluation.metrics import (  # noqa: F401
    probability,
    rouge,
    truth_ratio,
    accuracy,
    memorization,
    model_utility,
    forget_quality,
    membership_inference,
    representation,
    fluency,
    lm_eval,
)
