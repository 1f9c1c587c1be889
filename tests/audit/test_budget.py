"""A limit on time: what fits, what is left out and why, and by how much the limit can be exceeded at most."""

from functools import partial
from itertools import product

import pytest
from fixtures_audit import FORGET, QUICK, RETAIN

from egup_trainer import audit_model
from egup_trainer.audit import ATTACKS
from egup_trainer.audit.attack import Finding
from egup_trainer.audit.budget import Budget
from egup_trainer.evaluation.metric import Metric

RAN = Finding({"number": Metric(0.5)})


class Clock:
    """A clock that stands still until an attack takes time."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def attack(self, seconds: float) -> Finding:
        self.seconds += seconds
        return RAN


def attacked(budget: Budget, clock: Clock, seconds: dict[str, float]) -> dict[str, str | None]:
    """Why each attack was left out on one model; None if it was run."""
    budget.begin_model()
    return {name: budget.run(name, partial(clock.attack, taken)).reason for name, taken in seconds.items()}


def as_declared(slower: float = 1.0) -> dict[str, float]:
    return {name: slower * attack.cost for name, attack in ATTACKS.items()}


def test_with_enough_time_all_attacks_run():
    clock = Clock()
    minutes = sum(as_declared().values()) / 60
    assert set(attacked(Budget(minutes, 1, clock), clock, as_declared()).values()) == {None}
    assert clock.seconds == pytest.approx(60 * minutes)


def test_what_does_not_fit_is_left_out_and_cheaper_attacks_after_it_still_run():
    clock = Clock()
    names = list(ATTACKS)
    first, *later = (ATTACKS[name].cost for name in names)
    budget = Budget((first + min(later)) / 60, 1, clock)
    found = attacked(budget, clock, as_declared())
    assert found[names[0]] is None
    cheapest = names[1 + later.index(min(later))]
    assert {name for name, reason in found.items() if reason is None} == {names[0], cheapest}
    assert "did not fit into what was left of --budget" in found[names[1]]


def test_estimates_follow_what_attacks_have_taken():
    """On a machine that is ten times as slow as declared, ten times as much time is needed."""
    names = list(ATTACKS)[:2]
    for slower, minutes, fits in ((1.0, 1.01, True), (10.0, 1.01, False), (10.0, 10.1, True)):
        clock = Clock()
        needed = sum(ATTACKS[name].cost for name in names) / 60
        taken = {name: seconds for name, seconds in as_declared(slower).items() if name in names}
        found = attacked(Budget(minutes * needed, 1, clock), clock, taken)
        assert (found[names[1]] is None) is fits


def test_an_attack_that_cannot_run_says_nothing_of_the_time_of_others():
    clock, (first, second, *_) = Clock(), ATTACKS
    budget = Budget(0.01, 1, clock)
    budget.begin_model()
    assert budget.run(first, lambda: Finding(reason="too few rows")).reason == "too few rows"
    assert budget.run(second, partial(clock.attack, 100.0)) is RAN  # the first that can run


def test_the_other_models_count_and_are_attacked_as_the_first_was():
    clock = Clock()
    names = list(ATTACKS)
    needed = 2 * (ATTACKS[names[0]].cost + ATTACKS[names[1]].cost) / 60
    budget = Budget(1.01 * needed, 2, clock)
    first, second = (attacked(budget, clock, as_declared()) for _ in "ab")
    assert first == second
    assert first[names[0]] is first[names[1]] is None
    assert clock.seconds <= 60 * budget.minutes


@pytest.mark.parametrize(("minutes", "models", "slower"), product((0.01, 0.5, 3.0), (1, 3), (0.1, 1.0, 7.0)))
def test_the_limit_is_exceeded_by_one_piece_at_most(minutes, models, slower):
    """Even if the other models are slower than the first, and attacks take other times than declared."""
    clock = Clock()
    budget = Budget(minutes, models, clock)
    runs = []
    for model in range(models):
        taken = {name: cost * (1 + model) * (1 + i % 3) for i, (name, cost) in enumerate(as_declared(slower).items())}
        runs.append({name: taken[name] for name, why in attacked(budget, clock, taken).items() if why is None})
    first = next(iter(ATTACKS))
    largest = max([sum(run[first] for run in runs), *(max(run.values()) for run in runs)])
    assert clock.seconds <= 60 * minutes + largest
    assert all(first in run for run in runs)


def test_an_audit_says_what_was_left_out(make_model, tokenizer):
    names = list(ATTACKS)
    budget = Budget(1e-6, num_models=2)
    options = {"options": QUICK, "attacks": ["sampling", "prompts"], "budget": budget}
    audits = [audit_model(make_model(), tokenizer, FORGET[:2], RETAIN[:2], **options) for _ in "ab"]
    ran, left = sorted(("sampling", "prompts"), key=names.index)
    for audit in audits:
        assert audit.findings[ran].reason is None
        assert "did not fit into what was left of --budget 1e-06" in audit.findings[left].reason
