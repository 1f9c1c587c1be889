"""Stops a run without a retrained model: once forget rows look like rows that the model never saw."""

from dataclasses import dataclass
from typing import Any

from egup_trainer.components.boundary_measure import BoundaryMeasure
from egup_trainer.components.component import Component, ComponentOptions, ends_epoch
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import DataError, check_range
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.modeling.ks_test import LEVEL, ks_p_value, least_p_value
from egup_trainer.options import option


@dataclass
class StopOptions(ComponentOptions):
    """Options of `StopAtBoundary`."""

    help_title = "Stopping"

    stop_at_boundary: bool = option(
        False,
        "Stop at the end of an epoch once forget rows cannot be distinguished from the proxies, while the retain rows "
        "hold.",
    )
    stop_retain_rise: float = option(
        0.1, "stop_at_boundary: most that the retain rows' loss may have risen, nats per token; 0 or more."
    )

    def check_options(self) -> None:
        check_range(self, ("stop_retain_rise",), low=0)

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        return StopAtBoundary(self.stop_retain_rise) if self.stop_at_boundary else None


def refuse_too_few_rows(num_forget: int, num_proxies: int) -> None:
    """Raises `DataError` for so few rows that the test cannot tell sets apart: a run would stop after one epoch."""
    least = least_p_value(num_forget, num_proxies)
    if least > LEVEL:
        raise DataError(
            got=f"stop_at_boundary with {num_forget} forget rows and {num_proxies} proxies: the test's p-value is "
            f"{least:.2g} or more, whatever the model says",
            expected=f"enough rows for a p-value of {LEVEL:g}, such as four of each",
            fix="give more rows, or leave out --stop_at_boundary",
        )


class StopAtBoundary(BoundaryMeasure):
    """Stops training at the end of an epoch once forget rows look like rows never seen, while retain rows hold.

    The model scores the forget rows and the proxies as it is then. Training stops if their l cannot be distinguished
    (the p-value of the Kolmogorov-Smirnov test is above 0.05) and the mean l of the retain sample has risen by no more
    than `retain_rise` since before unlearning. Both numbers are logged, as `boundary_p` and `retain_rise`, and whether
    training stops, as `at_boundary`. No retrained model is needed.

    Args:
        retain_rise: most that the mean l of the retain sample may have risen, nats per token.
    """

    name = flag = "stop_at_boundary"

    def __init__(self, retain_rise: float = 0.1):
        self.retain_rise = retain_rise
        self._may_be_over = False

    def check_rows(self, forget: RowDataset, retain: RowDataset | None, proxies: RowDataset | None) -> None:
        refuse_too_few_rows(len(forget), 0 if proxies is None else len(proxies))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes whether the run goes on from the end of an epoch, which may have been its last."""
        self._may_be_over = bool(state.global_step) and state.epoch == int(state.epoch)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops a resumed run that was interrupted between its last checkpoint and its end."""
        if self._may_be_over:
            self._may_be_over = False
            logged = [row for row in state.log_history if row["step"] == state.global_step and "at_boundary" in row]
            # The first row is this component's: `Auto`, whose limit is another, logs after it.
            self._stop_if_at_boundary(logged[0] if logged else self._measure(), control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures and logs at the end of an epoch, and stops training if the forget rows are at the boundary."""
        if ends_epoch(state):
            self._stop_if_at_boundary(self._measure(), control)

    def _measure(self) -> dict[str, float]:
        chance, rise = ks_p_value(*self.measure_sides()), self.measure_retain_rise()
        is_there = chance > LEVEL and rise <= self.retain_rise
        found = {"boundary_p": chance, "retain_rise": rise, "at_boundary": float(is_there)}
        self.run.log(dict(found))
        return found

    def _stop_if_at_boundary(self, found: dict[str, float], control: Any) -> None:
        if found["at_boundary"]:
            control.should_training_stop = True
