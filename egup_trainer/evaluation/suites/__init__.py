"""One file per suite. Importing this package declares them all, in the order of the docs."""

# isort: off
from egup_trainer.evaluation.suites import tofu, muse, custom  # noqa: F401
