"""A limit on the time of an audit: which attacks still fit into it."""

import math
import time
from collections.abc import Callable

from egup_trainer.audit import ATTACKS
from egup_trainer.audit.attack import Finding
from egup_trainer.errors import ConfigError

_SECONDS = 60  # in a minute


class Budget:
    """How long an audit may take, over all models that are compared, which are attacked one after the other.

    The first model decides which attacks run, in the order of `ATTACKS`, the strongest first. The first attack always
    does. A later one runs if num_models * (t + t_a) is within the limit, where t is the time so far, and its own time
    t_a = c_a * (sum_k t_k) / (sum_k c_k) follows from the attacks k that have run and the declared costs c. On the
    other models, the same attacks run; once the limit is over, the first attack alone. The limit is therefore never
    exceeded by more than one piece: an attack on a model, or the first attack on all models.

    Args:
        minutes: the limit; the clock starts now.
        num_models: number of models that are attacked.
        clock: returns seconds.

    Raises:
        ConfigError: `minutes` is not a number above 0.

    Example:
        >>> budget = Budget(10, num_models=2)
        >>> # before = audit_model(model_before, tokenizer, forget, retain, budget=budget)
        >>> # audit = audit_model(model, tokenizer, forget, retain, before=before, budget=budget)
    """

    def __init__(self, minutes: float, num_models: int = 1, clock: Callable[[], float] = time.monotonic):
        if not 0 < minutes < math.inf:
            raise ConfigError(got=f"budget={minutes}", expected="a number of minutes above 0", fix="set --budget")
        self.minutes, self.num_models = minutes, num_models
        self._clock, self._start, self._models_begun = clock, clock(), 0
        self._seconds: dict[str, float] = {}  # of the attacks that were run on the first model
        self._left_out: dict[str, str] = {}  # attacks that were not, with the reason

    def begin_model(self) -> None:
        """Says that the attacks that follow are on another model."""
        self._models_begun += 1

    def run(self, attack: str, attempt: Callable[[], Finding]) -> Finding:
        """What an attack finds, or why there was no time for it."""
        reason = self._reason_on_first(attack) if self._models_begun == 1 else self._reason_on_others(attack)
        if reason is not None:
            return Finding(reason=reason)
        start = self._clock()
        finding = attempt()
        if self._models_begun == 1 and finding.reason is None:
            self._seconds[attack] = self._clock() - start
        return finding

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._start

    def _reason_on_first(self, attack: str) -> str | None:
        if not self._seconds:
            return None
        costs = sum(ATTACKS[each].cost for each in self._seconds)
        estimate = ATTACKS[attack].cost * sum(self._seconds.values()) / costs
        if self.num_models * (self._elapsed + estimate) <= _SECONDS * self.minutes:
            return None
        models = "" if self.num_models == 1 else f" on {self.num_models} models"
        took = f"about {self.num_models * estimate / _SECONDS:.2g} minutes{models}"
        self._left_out[attack] = f"left out: {took} did not fit into what was left of --budget {self.minutes:g}"
        return self._left_out[attack]

    def _reason_on_others(self, attack: str) -> str | None:
        is_over = self._elapsed > _SECONDS * self.minutes and attack != next(iter(self._seconds), attack)
        return self._left_out.get(attack) or (f"left out: --budget {self.minutes:g} was used up" if is_over else None)
