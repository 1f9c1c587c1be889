"""The boundary rule as numbers of an evaluation, and as the objective of a search for hyper-parameters."""

from collections.abc import Mapping
from typing import Any

from egup_trainer.components.boundary_measure import BoundaryMeasure
from egup_trainer.errors import ConfigError
from egup_trainer.modeling.ks_test import ks_distance

DISTANCE, RISE = "eval_boundary_distance", "eval_retain_rise"


class BoundaryMetrics(BoundaryMeasure):
    """Adds two numbers to each evaluation, by which runs are compared without a retrained model.

    `eval_boundary_distance` is the two-sample Kolmogorov-Smirnov distance between the l of the forget rows and the l of
    the proxies under the model as it is: 0 where forget rows look like rows never seen, and 1 where each is likelier,
    or each less likely, than all proxies. `eval_retain_rise` is how far the mean l of the retain sample has risen since
    before unlearning, nats per token.

    A trainer with a `model_init`, a retain set and proxies has this component. With other trainers, give it in
    `components`.

    Example:
        >>> # UnlearnTrainer(model, args, forget, retain, proxy_dataset=proxies, components=[BoundaryMetrics()])
    """

    name = "boundary_metrics"

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Measures, logs, and adds the numbers to those of the evaluation, unless training has not begun."""
        if self._retain_before is None:
            return
        found = {DISTANCE: ks_distance(*self.measure_sides()), RISE: self.measure_retain_rise()}
        self.run.log(dict(found))
        metrics.update(found)


def boundary_objective(metrics: Mapping[str, float], most_retain_rise: float = 0.1) -> float:
    """The boundary rule as a `compute_objective` of `hyperparameter_search`, to be minimised.

    Formula: D if r <= r_max, else 1 + r, where D is `eval_boundary_distance` (from 0 to 1), and r `eval_retain_rise`.
    Of the runs in which the retain rows hold, the one whose forget rows look most like rows never seen is the best. A
    run in which they do not hold is worse than all of these, and the worse the more their loss has risen (ours).

    Args:
        metrics: of an evaluation, with the numbers of `BoundaryMetrics`.
        most_retain_rise: r_max, nats per token; the default is that of `stop_retain_rise`.

    Raises:
        ConfigError: the evaluation has not measured them.

    Example:
        >>> boundary_objective({"eval_boundary_distance": 0.3, "eval_retain_rise": 0.1})
        0.3
        >>> boundary_objective({"eval_boundary_distance": 0.0, "eval_retain_rise": 0.2})
        1.2
    """
    missing = [name for name in (DISTANCE, RISE) if name not in metrics]
    if missing:
        raise ConfigError(
            got=f"an evaluation without {' and '.join(missing)}",
            expected="a trainer with a retain set and rows that the model never saw, which measures them",
            fix="give retain_dataset and proxy_dataset, or another compute_objective",
        )
    rise = metrics[RISE]
    return metrics[DISTANCE] if rise <= most_retain_rise else 1 + rise
