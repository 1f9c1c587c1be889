"""The demo's models by every metric of a suite."""

from dataclasses import replace
from typing import Any

from egup_trainer.data.sources import load_rows
from egup_trainer.demo.experiment import Experiment, Prepared, Trained
from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.evaluation.suites.suite import Suite

_LONGEST_ANSWER = 40
_EXAMPLES = 6


def suite_of(experiment: Experiment) -> Suite:
    """All metrics on the experiment's rows; generations are as long as its answers can be."""
    forget, retain, holdout = map(load_rows, (experiment.forget, experiment.retain, experiment.holdout))
    return custom_suite(forget, retain, holdout, max_new_tokens=_LONGEST_ANSWER)


def evaluate(trained: Trained, prepared: Prepared, suite: Suite, before: Any, facts: dict[str, Any]) -> Evaluation:
    """One model on the suite, with a few of its generations: the people are invented, so their rows may be shown.

    Args:
        before: the model before unlearning, which judges how likely the generations are.
        facts: of the run.
    """
    evaluation = evaluate_model(
        trained.model,
        prepared.tokenizer,
        suite,
        ScoringOptions(batch_size=32),
        name=trained.name,
        model_before=before,
        show_examples=_EXAMPLES,
    )
    return replace(evaluation, training=trained.log_history, run={**facts, "training_seconds": trained.seconds})
