"""Runs a suite at every evaluation during training, so that its metrics are logged and can choose the checkpoint."""

from typing import Any

from transformers import TrainerCallback

from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.evaluation.relative import check_relations, with_relations
from egup_trainer.evaluation.rows import Texts, texts_of
from egup_trainer.evaluation.run import evaluate_model, plan_of
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.suite import Suite
from egup_trainer.extras import require_extra


class SuiteCallback(TrainerCallback):
    """Evaluates a suite whenever the trainer evaluates, and logs each metric that has a value as `eval_METRIC`.

    With results of the retrained model, the distance to its value is also logged, as `eval_METRIC_distance`. All of
    these are added to the values of the trainer's own evaluation, so `metric_for_best_model` can be any of them.

    Args:
        trainer: the trainer whose model is evaluated; it also needs an evaluation set of its own.
        suite: rows and metrics.
        options: batch size and the like.
        retrained: results of the retrained model on the same suite.
        texts: of the suite's row sets from `texts_of`, if you have them.

    Attributes:
        last: the latest evaluation, or None.

    Raises:
        ConfigError: the metric of `metric_for_best_model` has no value, or `greater_is_better` contradicts it.
        DataError: `retrained` is of other rows.

    Example:
        >>> # trainer.add_callback(SuiteCallback(trainer, tofu_suite("forget10", "data/tofu")))
    """

    def __init__(
        self,
        trainer: Any,
        suite: Suite,
        options: ScoringOptions | None = None,
        retrained: Evaluation | None = None,
        texts: Texts | None = None,
    ):
        require_extra("evaluation", "a suite (--eval_suite)")
        self.trainer, self.suite, self.retrained = trainer, suite, retrained
        self.options = options or ScoringOptions(
            batch_size=trainer.args.per_device_eval_batch_size, progress=not trainer.args.disable_tqdm
        )
        self.texts = texts or texts_of(suite.row_sets, trainer.processing_class, self.options.progress)
        if retrained is not None:
            planned = plan_of(suite, self.options, "the model in training", self.texts)
            check_relations(planned, retrained=retrained)
        self.last: Evaluation | None = None
        self._step: int | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Adds the suite's values to those of the trainer's own evaluation."""
        if self._step != state.global_step:  # a trainer with several evaluation sets calls once for each
            self.last = self._evaluate(f"step {state.global_step}")
            self._step = state.global_step
            self._check_best(args)
            self.trainer.log(self._values())
        metrics.update(self._values())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forgets the last evaluation: the best checkpoint may have been loaded since."""
        self._step = None

    def _evaluate(self, name: str) -> Evaluation:
        evaluation = evaluate_model(
            self.trainer.model_wrapped,
            self.trainer.processing_class,
            self.suite,
            self.options,
            name=name,
            accelerator=self.trainer.accelerator,
            texts=self.texts,
        )
        return with_relations(evaluation, retrained=self.retrained)

    def _values(self) -> dict[str, float]:
        found = {} if self.last is None else self.last.values
        values = {name: value for name, value in found.items() if value is not None}
        aims = {} if self.retrained is None else self.retrained.values
        distances = {
            f"{name}_distance": abs(value - aim)
            for name, value in values.items()
            if (aim := aims.get(name)) is not None
        }
        return {f"eval_{name}": value for name, value in {**values, **distances}.items()}

    def _check_best(self, args: Any) -> None:
        name = (args.metric_for_best_model or "").removeprefix("eval_")
        metric = None if self.last is None else self.last.metrics.get(name.removesuffix("_distance"))
        if metric is None:
            return
        if f"eval_{name}" not in self._values():
            raise ConfigError(
                got=f"metric_for_best_model={name}, which has no value: {metric.reason or 'no retrained model'}",
                expected="a metric that the suite can compute",
                fix="choose another metric, or provide what it needs",
            )
        higher = False if name.endswith("_distance") else metric.higher_is_better
        if higher is not None and higher != args.greater_is_better:
            raise ConfigError(
                got=f"metric_for_best_model={name} with greater_is_better={args.greater_is_better}",
                expected=f"greater_is_better={higher}",
                fix=f"set --greater_is_better {str(higher).lower()}",
            )
