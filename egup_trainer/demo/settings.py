"""The demo's experiment."""

from egup_trainer.demo.experiment import BOTH_ENTANGLEMENTS, UNGUIDED, Experiment
from egup_trainer.demo.people import invent_people
from egup_trainer.demo.twins import ModelSize, Schedule

METHODS = {
    "gradient_difference": {"objective": "grad_diff", **UNGUIDED},
    "egup_clreg": {"objective": "grad_diff", **BOTH_ENTANGLEMENTS, "clreg_weight": 0.1},
}
"""The two methods that the demo compares: the same objective, without and with EGUP and CLReg."""


def demo_experiment(seed: int = 0) -> Experiment:
    """Ten people to forget, thirty to keep, ten never seen as proxies, ten never seen to evaluate with."""
    people = invent_people(seed=seed)
    return Experiment(
        forget=people.forget,
        retain=people.retain,
        proxy=people.proxy,
        holdout=people.holdout,
        size=ModelSize(),
        learning=Schedule(epochs=30, learning_rate=2e-3),
        unlearning=Schedule(epochs=20, learning_rate=5e-4),
        methods=METHODS,
        seed=seed,
    )
