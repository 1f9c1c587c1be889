"""Chooses learning rate and length of a run from what its rows show, without a retrained model."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor

from egup_trainer.components.component import Component, ComponentOptions, Needs, Run, ends_epoch
from egup_trainer.components.expected_outputs import ExpectedOutputs
from egup_trainer.components.output_estimates import match_quantiles
from egup_trainer.components.retain import RetainObjective
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.errors import ConfigError, check_range, choose
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.modeling.ks_test import LEVEL, ks_p_value, least_p_value
from egup_trainer.modeling.scan import RowScores
from egup_trainer.options import option, stand_in

DEFAULT_LEARNING_RATE = 1e-5
"""The learning rate where none is given and auto is off."""

LEAST_STEPS, LEAST_EPOCHS = 200, 5
"""A run with auto has about so many steps or more, and at least so many passes over the forget set, unless the user
sets their number: one person's rows need more passes than a book."""

RATES = tuple(4e-7 * 2**n for n in range(LEAST_STEPS // 10))
"""Learning rates of the range test, a step each: from one that changes nothing to one that changes everything (0.2).

They are at most a tenth of the steps of a run whose length is not given. A run that the user makes shorter has the same
range test, which then is a larger share of it: fewer rates, further apart, would miss the one that is right.
"""

MOST_RETAIN_FACTOR, LEAST_RETAIN_FACTOR = 8.0, 1 / 32
"""How much more, and how much less, the retain objective may come to count."""

HALFWAY = 0.5
"""The range test ends once the forget rows have come so far towards rows never seen."""

MEASUREMENTS = 10
"""How many epochs of a run end with a measurement, at most: in a run of few rows, each costs as much as an epoch. The
first comes after a tenth of the steps at the earliest; an optimizer needs some to get going."""

LEAST_SHARE = 0.1
"""Share of that way below which the range test shows nothing."""

LEAST_RISE = 0.1
"""Forget rows whose l has to rise by less, nats per token, are as unlikely as rows never seen already. No learning rate
is then tried out."""

PART_OF_GAP = 0.5
"""How much of what a forget row lacks of rows never seen is added to its expected l at the end of an epoch."""

RISE_WITHOUT_TARGET = 2.0
"""How far forget rows are to rise if nothing shows what the model says of rows never seen, nats per token."""


_STATE, _UNSEEN = "state", "unseen_nll"


class Strength(str, Enum):
    """How hard a run tries."""

    GENTLE = "gentle"
    BALANCED = "balanced"
    THOROUGH = "thorough"


@dataclass(frozen=True)
class Effort:
    """What a strength means.

    Args:
        path: the sum of the run's learning rates, as a multiple of the sum that moved the rows halfway in the range
            test.
        retain_rise: most that the mean l of the retain rows may rise before they count more, nats per token.
        length: steps of a run whose length is not given, as a multiple of `LEAST_STEPS`.
        sharpness: `forget_sharpness` unless it is given.
    """

    path: float
    retain_rise: float
    length: int = 1
    sharpness: float = 0.0


EFFORTS = {
    Strength.GENTLE: Effort(path=7.5, retain_rise=0.05),
    Strength.BALANCED: Effort(path=15.0, retain_rise=0.1),
    Strength.THOROUGH: Effort(path=30.0, retain_rise=0.2, length=2, sharpness=0.2),
}


@dataclass
class AutoOptions(ComponentOptions):
    """Options of `Auto`."""

    auto: bool | None = option(
        None,
        "Choose the learning rate, unless it is given, by a short range test, and adapt it and the length of the run, "
        "at most num_train_epochs, to how far forget and retain rows have moved. By default on where no learning rate "
        "is given.",
    )
    strength: Strength = option(
        Strength.BALANCED,
        "auto: how strongly to forget: gentle, balanced, or thorough, which takes twice the steps, with "
        "forget_sharpness 0.2, and makes the rows harder to relearn.",
    )

    def check_options(self: Any) -> None:  # of a configuration, which has a learning rate
        self.has_learning_rate = not self._is_default["learning_rate"]
        self.strength = choose(Strength, self.strength, "strength")
        if self.uses_auto:
            check_range(self, ("learning_rate",), low=0, low_is_allowed=False)
            self._refuse_schedule()
        self.refuse_auto_without_rise()
        if self.strength is not Strength.BALANCED and not self.uses_auto:
            raise ConfigError(
                got=f"strength={self.strength.value} without auto, which is off where a learning rate is given",
                expected="a run with auto, the only one that reads strength",
                fix="leave out --learning_rate or add --auto, or leave out --strength",
            )

    def refuse_auto_without_rise(self: Any) -> None:
        """Raises `ConfigError` for auto with an objective under which nothing shows which learning rate is right."""
        if self.auto and not self._raises_nll:
            raise ConfigError(
                got=f"auto with objective={self.objective}, which does not make forget rows less likely as it trains",
                expected="a given learning rate: nothing shows which one is right",
                fix="set --learning_rate, and leave out --auto",
            )

    def _refuse_schedule(self: Any) -> None:
        """Raises `ConfigError` for a learning rate schedule, which would have no effect."""
        for name in ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"):
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if value and value != default:
                raise ConfigError(
                    got=f"{name}={getattr(value, 'value', value)} with auto, which sets the learning rate of each step",
                    expected="one of the two",
                    fix=f"leave out --{name}, or set --learning_rate and leave out --auto",
                )

    @property
    def uses_auto(self: Any) -> bool:
        """Whether the run adapts itself. `auto` stays None where it is not given, so that a copy decides anew."""
        return (not self.has_learning_rate and self._raises_nll) if self.auto is None else self.auto

    @property
    def chooses_length(self: Any) -> bool:
        """Whether the run's number of passes is chosen as well."""
        return self.uses_auto and self._is_default["num_train_epochs"]

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        return Auto(self.strength, has_proxies, self.has_learning_rate) if self.uses_auto else None


def epochs_of(args: Any, steps_an_epoch: int) -> float:
    """Passes over the forget set: those that the user set, or with auto as many as make `LEAST_STEPS`.

    Example:
        >>> from types import SimpleNamespace
        >>> balanced, thorough = (SimpleNamespace(chooses_length=True, strength=each) for each in list(Strength)[1:])
        >>> [epochs_of(balanced, steps) for steps in (8, 1, 300)], epochs_of(thorough, 8)
        ([25.0, 200.0, 5.0], 50.0)
    """
    if not getattr(args, "chooses_length", False):
        return args.num_train_epochs
    length = EFFORTS[args.strength].length
    return stand_in(float(max(LEAST_EPOCHS, ceil(length * LEAST_STEPS / steps_an_epoch))))


class Auto(Component):
    """Sets the learning rate of each step.

    Before the first step, a range test finds how far the weights must move until the forget rows have come halfway to
    rows never seen. The learning rate is such that the run moves them `Effort.path` times as far; it falls linearly to
    0 over the run. At the end of each epoch, or of `MEASUREMENTS` of them if there are more,

    - the retain objective counts twice as much as before, at most 8 times as much as at first, if the mean l of the
      retain sample has risen by more than `Effort.retain_rise`, and has not fallen since the last measurement; a
      quarter as much, at least 1/32 of what it did at first, while that mean is below what it was before unlearning,
      since the retain rows would otherwise be learned further than the retrained model learned them; and four times as
      much again, up to what it did at first, once it is not;
    - the run is shortened to twice its length so far, or to the epochs that make 200 steps (400 of a thorough run) if
      these are more, once its forget rows cannot be distinguished from rows never seen (the p-value of a
      Kolmogorov-Smirnov test of their l is above 0.05) or, where they are too few for the test to tell, have come all
      of the way to these;
    - it is doubled if the forget rows have come less than half as far as they should have by then;
    - in the second half of the run, what is expected of each forget row is moved (`ExpectedOutputs.scale_nll`) by half
      of what its l lacks of the l of the proxy with its rank, which is taken halfway between what it was before
      unlearning and what it is now. Rows stay behind what is expected of them, and the model finds proxies less likely
      with every step.

    Rows never seen are the proxies, or else the forget rows under the proxy model.

    Attributes:
        rate: the learning rate at the first step; 0 before the range test.
    """

    name = "auto"
    flag = "auto"
    switch_off = "set --learning_rate"
    stays_on_cpu = True  # its state has numbers in float64, which not every device can hold

    def __init__(self, strength: Strength, has_proxies: bool, has_learning_rate: bool):
        self._effort, self._has_proxies, self._has_rate = EFFORTS[strength], has_proxies, has_learning_rate
        self.needs = Needs(retain_rows=True, proxy_rows=has_proxies)
        self.rate, self._start, self._factor, self._end = 0.0, 0.0, 1.0, 0.0
        self._last_rise, self._retain_factor = inf, 1.0  # the first steps hurt retain rows however the run ends
        self._lacking: Tensor | None = None

    def attach(self, run: Run) -> None:
        super().attach(run)
        if not (self._has_rate or run.can_move_weights):
            raise ConfigError(
                got="no learning rate, with DeepSpeed or FSDP1, under which none can be tried out",
                expected="one process, DDP or FSDP2, which can take a step back",
                fix=self.switch_off,
            )

    def scan(self) -> dict[str, ScanRequest]:
        forget = self.run.forget_rows
        requests = {
            "retain": ScanRequest(self.run.needed_retain_rows, self.run.retain_sample()),
            "forget": ScanRequest(forget, torch.arange(len(forget))),
        }
        if self._has_proxies:
            proxies = self.run.needed_proxy_rows
            requests["proxy"] = ScanRequest(proxies, torch.arange(len(proxies)))
        return requests

    def start(self, scan: dict[str, RowScores]) -> None:
        given = len(self.run.forget_rows) - self.run.own_answers
        self._retain_before = scan["retain"].mean_nll.mean().item()
        self._forget_before = scan["forget"].mean_nll[:given].mean().item()
        never_seen = scan["proxy"].mean_nll if self._has_proxies else self._never_seen()
        self._unseen_before = torch.empty(0) if never_seen is None else never_seen
        self._needed_rise = RISE_WITHOUT_TARGET
        # The test cannot tell a row or two from others, whatever the model says of them.
        self._can_tell = least_p_value(given, len(self._unseen_before)) <= LEVEL
        if never_seen is not None:
            self._needed_rise = never_seen.mean().item() - self._forget_before

    def _never_seen(self) -> Tensor | None:
        """l of the forget rows under the proxy model, nats per token, (N_f,), or None if there is none."""
        found = [each for each in self.run.components if isinstance(each, ExpectedOutputs)]
        return found[0].mean_nll() if found else None

    def schedule(self, num_steps: int, learning_rate: float) -> Callable[[int], float] | None:
        """Linear from where it was last set to 0 at the end."""
        self._num_steps = num_steps

        def factor(step: int) -> float:
            if not self.rate or step >= self._end:
                return 0.0
            return self.rate / learning_rate * self._factor * (self._end - step) / (self._end - self._start)

        return factor

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Chooses the learning rate, unless the run is resumed, or the trainer trains again."""
        if state.global_step:
            return
        self._start, self._factor, self._end, self._last_rise = 0.0, 1.0, float(self._num_steps), inf
        self._weigh_retain_rows(1.0)
        if not self.rate:
            self.rate = args.learning_rate if self._has_rate else self._choose_rate()
        self._set_first_rate(kwargs["optimizer"], kwargs["lr_scheduler"], self.rate / args.learning_rate)
        self.run.log({"auto_learning_rate": self.rate})

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops a run that is resumed from its end, which may lie before that of its epochs."""
        if state.global_step >= self._end:
            control.should_training_stop = True

    def _set_first_rate(self, optimizer: Any, scheduler: Any, factor: float) -> None:
        """Sets the learning rates of the first step, which the schedule was asked for before the rate was known."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler.load_state_dict({**scheduler.state_dict(), "_last_lr": rates})  # what is logged

    def _choose_rate(self) -> float:
        if self._needed_rise < LEAST_RISE:
            return DEFAULT_LEARNING_RATE
        halfway = HALFWAY * self._needed_rise
        trials = self.run.try_rates(RATES, lambda trial: trial.forget_rise >= halfway)
        best = max(trials, key=lambda trial: trial.forget_rise)
        if best.forget_rise < LEAST_SHARE * halfway:
            raise ConfigError(
                got=f"a range test in which the forget rows' loss rose by at most {best.forget_rise:.2g} nats per "
                f"token at learning rates of up to {RATES[len(trials) - 1]:.2g}",
                expected=f"a rise of {halfway:.2g}",
                fix="set --learning_rate",
            )
        moved = best.moved * halfway / best.forget_rise
        return 2 * self._effort.path * moved / self._num_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures, logs, and adapts what is left of the run at the end of an epoch."""
        if not ends_epoch(state):
            return
        if state.global_step >= self._end:
            control.should_training_stop = True
        elif not self._is_due(state.global_step, state.epoch):
            return
        found = self.measure()
        retain_suffers = found["retain_rise"] > self._effort.retain_rise
        if "boundary_p" in found:
            is_there = found["boundary_p"] > LEVEL and (self._can_tell or found["forget_progress"] >= 1)
            found["at_boundary"] = float(is_there and not retain_suffers)
        if state.global_step < self._end:
            self._adapt(float(state.global_step), state.global_step / state.epoch, found, retain_suffers)
        self._last_rise = found["retain_rise"]
        self.run.log({**found, "auto_retain_factor": self._retain_factor, "auto_last_step": self._end})

    def _is_due(self, step: int, epoch: float) -> bool:
        """Whether the epoch that ends after `step` is the first to end in a tenth of the run as it is planned now."""
        now, before = (int(MEASUREMENTS * each / self._end) for each in (step, step - step / epoch))
        return now > before

    def _adapt(self, step: float, epoch_steps: float, found: dict[str, float], retain_suffers: bool) -> None:
        """Adapts what is left of the run to what was `found` after `step`, the last one of its epoch."""
        end = self._end
        if step >= HALFWAY * end:
            self._move_expected_outputs()
        if found["retain_rise"] < 0:
            self._weigh_retain_rows(max(self._retain_factor / 4, LEAST_RETAIN_FACTOR))
        elif self._retain_factor < 1:
            self._weigh_retain_rows(min(4 * self._retain_factor, 1.0))
        if retain_suffers:
            if found["retain_rise"] >= self._last_rise:
                self._weigh_retain_rows(min(2 * self._retain_factor, MOST_RETAIN_FACTOR))
        elif found.get("at_boundary"):
            # Whole epochs, since the rate would be 0 in the rest of one.
            least = epoch_steps * ceil(self._effort.length * LEAST_STEPS / epoch_steps)
            self._restart(step, 1.0, min(end, max(2 * step, least)))
        elif self._lags_behind(step, found["forget_progress"]):
            self._restart(step, 2.0, end)

    def _lags_behind(self, step: float, progress: float) -> bool:
        """Whether forget rows have come less than half as far as is due; not where there was nothing to forget."""
        due = 1 - (1 - step / self._num_steps) ** 2
        return self._needed_rise >= LEAST_RISE and progress < HALFWAY * due

    def measure(self) -> dict[str, float]:
        """Where the rows are now: `retain_rise`, and `forget_progress`, which is 1 at rows never seen.

        How they differ from these is shown by `unseen_gap`, the mean l of forget rows less that of rows never seen,
        nats per token, and by `boundary_p`, the p-value of a Kolmogorov-Smirnov test.
        """
        run = self.run
        forget = run.score(run.forget_rows, torch.arange(len(run.forget_rows) - run.own_answers)).mean_nll
        retain = run.score(run.needed_retain_rows, run.retain_sample())
        found = {
            "retain_rise": retain.mean_nll.mean().item() - self._retain_before,
            "forget_progress": (forget.mean().item() - self._forget_before) / max(self._needed_rise, LEAST_RISE),
        }
        never_seen = run.score(run.needed_proxy_rows).mean_nll if self._has_proxies else self._never_seen()
        if never_seen is not None:
            found["unseen_gap"] = (forget.mean() - never_seen.mean()).item()
            found["boundary_p"] = ks_p_value(forget.tolist(), never_seen.tolist())
            sides = (match_quantiles(forget, each) for each in (self._unseen_before, never_seen))
            self._lacking = sum(sides) / 2 - forget  # (N_f,), nats per token
        return found

    def _move_expected_outputs(self) -> None:
        """Moves the l that is expected of each forget row by `PART_OF_GAP` of what it lacks of the proxies.

        The row with the n-th smallest l should have the quantile (n - 1/2) / N of the proxies' l, halfway between
        before unlearning, which is where the retrained model has the forget rows, and now, which is what anybody who
        has this model can compare them with. Without proxies nothing is moved.
        """
        found = [each for each in self.run.components if isinstance(each, ExpectedOutputs)]
        if found and self._has_proxies and self._lacking is not None:
            found[0].scale_nll(1 + PART_OF_GAP * self._lacking / found[0].mean_nll())

    def _weigh_retain_rows(self, factor: float) -> None:
        """The retain objective counts `factor` times as much as at first."""
        for each in self.run.components:
            if isinstance(each, RetainObjective):
                each.weight *= factor / self._retain_factor
        self._retain_factor = factor

    def chosen(self) -> dict[str, float]:
        """What came of it, for the record: how much more retain rows counted at last, and the last step."""
        return {"retain_factor": self._retain_factor, "last_step": self._end}

    def _restart(self, step: float, factor: float, end: float) -> None:
        """From `step` on, the learning rate is `factor` times what it is then, and falls to 0 at `end`."""
        self._factor *= factor * (self._end - step) / (self._end - self._start)
        self._start, self._end = step, end

    def state_dict(self) -> dict[str, Tensor]:
        numbers = (self.rate, self._start, self._factor, self._end, self._last_rise, self._retain_factor)
        before = (self._retain_before, self._forget_before, self._needed_rise, float(self._can_tell))
        state = torch.tensor([*numbers, *before], dtype=torch.float64)
        return {_STATE: state, _UNSEEN: self._unseen_before}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.rate, self._start, self._factor, self._end, self._last_rise, factor, *before = state[_STATE].tolist()
        self._weigh_retain_rows(factor)
        self._retain_before, self._forget_before, self._needed_rise, can_tell = before
        self._can_tell = bool(can_tell)
        self._unseen_before = state[_UNSEEN].cpu()
