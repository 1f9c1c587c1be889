"""The mean probability of answers before and after a run."""

from typing import Any

from transformers import TrainerCallback

from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.probability import probabilities


class ProbabilityCallback(TrainerCallback):
    """Mean probability of answers, mean over rows of exp(-l_i), before the first and after the last step.

    Args:
        trainer: the trainer whose model is scored.
        datasets: the rows by name; from large sets, a sample is scored, chosen with the run's seed.

    Attributes:
        before, after: probability by name.
    """

    def __init__(self, trainer: Any, datasets: dict[str, RowDataset]):
        self.trainer, self.datasets = trainer, datasets
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = self._score("before")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after = self._score("after")

    def _score(self, when: str) -> dict[str, float]:
        args = self.trainer.args
        description = None if args.disable_tqdm else f"Scoring rows {when} unlearning"
        return probabilities(
            lambda rows, ids: self.trainer.score(rows, ids, description=description), self.datasets, seed=args.seed
        )
