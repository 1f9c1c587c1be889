"""Gradient ascent."""

from egup_trainer.losses.grad_diff import GradientDifference


class GradientAscent(GradientDifference):
    """Gradient ascent on forget rows alone (Jang et al. 2022, arXiv 2210.01504).

    Formula: -l_i, shape (B,), nats per token, as in `GradientDifference`.

    Requirements: only the forget set.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Recommendations:
        - Only as a baseline: nothing keeps the rest of the model in place.

    Relations:
        - `GradientDifference` adds a retain loss.
    """

    default_retain_loss = "none"
