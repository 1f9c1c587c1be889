"""When to stop without a retrained model: once forget rows cannot be told from rows that the model never saw."""

from typing import Any

from torch import Tensor
from transformers import TrainerCallback

P_VALUE = 0.05
"""Above it, a two-sample Kolmogorov-Smirnov test does not tell the two sets apart."""


def cannot_be_told_apart(forget_nll: Tensor, proxy_nll: Tensor) -> float:
    """p-value of the two-sided two-sample Kolmogorov-Smirnov test between two sets of l: (N,), (M,) -> a number.

    Example:
        >>> import torch
        >>> cannot_be_told_apart(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
        1.0
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(forget_nll.tolist(), proxy_nll.tolist()).pvalue)


class StopAtBoundary(TrainerCallback):
    """Stops training at the end of an epoch once forget rows look like rows never seen, while retain rows hold.

    The model scores the forget rows and the proxies as it is. It stops where their l cannot be told apart (p above
    0.05) and the mean l of the retain sample has risen by no more than `stop_retain_rise` since before unlearning.
    Both numbers are logged, as `boundary_p` and `retain_rise`. No retrained model is needed, and none is looked at.

    Args:
        trainer: an `EGUPTrainer` with proxy rows.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._may_be_over = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes whether the run goes on from the end of an epoch, which may have been its last."""
        self._may_be_over = bool(state.global_step) and state.epoch == int(state.epoch)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops a resumed run that was broken off between its last checkpoint and its end."""
        if self._may_be_over:
            self._may_be_over = False
            known = [row for row in state.log_history if row["step"] == state.global_step and "boundary_p" in row]
            self._stop_if_it_is_time(known[-1] if known else self._measure(), args, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures, logs, and stops if it is time."""
        self._stop_if_it_is_time(self._measure(), args, control)

    def _measure(self) -> dict[str, float]:
        forget, proxies = (self.trainer.score(rows) for rows in (self.trainer.forget_rows, self.trainer.proxy_rows))
        p_value = cannot_be_told_apart(forget.mean_nll, proxies.mean_nll)
        found = {"boundary_p": p_value, "retain_rise": self.trainer.retain_rise()}
        self.trainer.log(dict(found))
        return found

    def _stop_if_it_is_time(self, found: dict[str, float], args: Any, control: Any) -> None:
        if found["boundary_p"] > P_VALUE and found["retain_rise"] <= args.stop_retain_rise:
            control.should_training_stop = True
