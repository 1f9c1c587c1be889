"""Which attack brought most of the forgotten rows back: the rule, in one place.

Attacks declare which of their numbers say how much of the forget rows comes back, from 0 to 1 (`Attack.brings_back`).
The worst attack is the one whose number is furthest above that of the retrained model, value - retrained. Without a
retrained model, it is the one whose number is the largest share of that of the model before, value / before. Numbers
that tell forget rows from others without bringing them back, such as areas under curves, do not take part.
"""

import math
from dataclasses import dataclass

from egup_trainer.audit import ATTACKS
from egup_trainer.audit.audit import Audit
from egup_trainer.evaluation.metric import Metric


@dataclass(frozen=True)
class BroughtBack:
    """A number of an attack that says how much of the forget rows came back, from 0 (nothing) to 1.

    Args:
        metric: the number of the audited model.
        retrained: its value in the retrained model; None without one.
        before: its value in the model before unlearning; None without one, or beside a retrained model.
    """

    attack: str
    number: str
    metric: Metric
    retrained: float | None = None
    before: float | None = None

    @property
    def distance(self) -> float | None:
        """How far the attack got: value - retrained, else value / before; None if there is nothing to compare with.

        Example:
            >>> BroughtBack("sampling", "best_rouge", Metric(0.5), retrained=0.25).distance
            0.25
            >>> BroughtBack("sampling", "best_rouge", Metric(0.25), before=0.5).distance
            0.5
        """
        value = self.metric.value
        if value is None or (self.retrained is None and not self.before):
            return None
        return value - self.retrained if self.retrained is not None else value / float(self.before or 1)


def brought_back(audit: Audit) -> list[BroughtBack]:
    """The number of each attack that got furthest, the furthest attack first.

    All are compared with the same model: the retrained one if it was audited, else the model before. Attacks that
    cannot be compared come last, in the order of `ATTACKS`, with their highest numbers.

    Args:
        audit: with the audits of the models beside it.

    Example:
        >>> brought_back(Audit("mine", {}, {}, {}))
        []
    """
    found = []
    for attack, finding in audit.findings.items():
        numbers = [
            _compared(audit, attack, name, metric)
            for name, metric in finding.metrics.items()
            if metric.value is not None and ATTACKS[attack].sentence_of(name) is not None
        ]
        if numbers:
            found.append(max(numbers, key=_how_far))
    return sorted(found, key=lambda each: _how_far(each)[0], reverse=True)


def worst_attack(audit: Audit) -> BroughtBack | None:
    """The attack that got furthest; None if no attack can be compared with another model.

    Example:
        >>> worst_attack(Audit("mine", {}, {}, {})) is None
        True
    """
    return next((each for each in brought_back(audit) if each.distance is not None), None)


def _compared(audit: Audit, attack: str, name: str, metric: Metric) -> BroughtBack:
    if audit.retrained is not None:
        return BroughtBack(attack, name, metric, retrained=audit.retrained.value(attack, name))
    return BroughtBack(attack, name, metric, before=None if audit.before is None else audit.before.value(attack, name))


def _how_far(found: BroughtBack) -> tuple[float, float]:
    return (-math.inf if found.distance is None else found.distance), found.metric.value or 0.0
