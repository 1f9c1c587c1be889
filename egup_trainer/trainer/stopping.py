"""When to stop without a retrained model: once forget rows cannot be told from rows that the model never saw."""

from typing import Any

from transformers import TrainerCallback

from egup_trainer.errors import DataError
from egup_trainer.modeling.ks_test import LEVEL, ks_p_value, least_p_value


def refuse_too_few_rows(num_forget: int, num_proxies: int) -> None:
    """Raises `DataError` for so few rows that no numbers could be told apart: the run would stop after one epoch."""
    least = least_p_value(num_forget, num_proxies)
    if least > LEVEL:
        raise DataError(
            got=f"stop_at_boundary with {num_forget} forget rows and {num_proxies} proxies: the test's p-value is "
            f"{least:.2g} or more, whatever the model says",
            expected=f"enough rows for a p-value of {LEVEL:g}, such as four of each",
            fix="give more rows, or leave out --stop_at_boundary",
        )


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
        p_value = ks_p_value(forget.mean_nll.tolist(), proxies.mean_nll.tolist())
        found = {"boundary_p": p_value, "retain_rise": self.trainer.retain_rise()}
        self.trainer.log(dict(found))
        return found

    def _stop_if_it_is_time(self, found: dict[str, float], args: Any, control: Any) -> None:
        if found["boundary_p"] > LEVEL and found["retain_rise"] <= args.stop_retain_rise:
            control.should_training_stop = True
