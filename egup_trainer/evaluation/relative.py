"""Metrics that need a second model's results: the retrained model's, or those of the model before unlearning."""

from dataclasses import replace

from egup_trainer.evaluation.evaluation import Evaluation, check_same_rows
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.metric_registry import Measured, MetricSpec, declared_metrics


def with_relations(
    evaluation: Evaluation,
    *,
    retrained: Evaluation | None = None,
    before: Evaluation | None = None,
    reference: Evaluation | None = None,
) -> Evaluation:
    """The evaluation with the metrics that compare it with other models, for those models that are given.

    A metric whose other model is not given stays as it was, and so does one that had a value and cannot be computed
    again, such as from results whose features were not copied along. Everything is computed from per-sample numbers and
    features; no model is run.

    Args:
        evaluation: of the model that is compared.
        retrained: the model trained without the forget set: for forget quality and privleak.
        before: the model before unlearning: for the shift of retain features and centred kernel alignment.
        reference: a model that tells how hard a text is in itself, such as the base model: for the reference attack.

    Raises:
        DataError: one of them was evaluated on other rows; both fingerprints are named.
    """
    others = {"retrained": retrained, "before": before, "reference": reference}
    given = {role: other for role, other in others.items() if other is not None}
    check_relations(evaluation, **given)
    # By section, since results of an older version may lack a metric that is new.
    has = {(spec.section, spec.other) for spec in declared_metrics() if spec.name in evaluation.metrics}
    related = {
        spec.name: _related(spec, evaluation, spec.other, given[spec.other])
        for spec in declared_metrics()
        if spec.other in given and (spec.section, spec.other) in has
    }
    # Relations of features stay where the files of features were not copied along.
    stays = {spec.name for spec in declared_metrics() if not spec.builds_on}
    stays &= {name for name, metric in evaluation.metrics.items() if metric.value is not None}
    related = {name: metric for name, metric in related.items() if metric.value is not None or name not in stays}
    return replace(evaluation, metrics=evaluation.metrics | related)


def _related(spec: MetricSpec, evaluation: Evaluation, role: str, other: Evaluation) -> Metric:
    """A metric of two models; without a value if the other one was evaluated with fewer metrics (--metrics)."""
    lacking = [name for name in spec.builds_on if name not in other.metrics]
    if not lacking:
        return spec.compute(_measured(evaluation), _measured(other))
    reason = f"the results of --{role} lack {', '.join(lacking)}"
    return replace(evaluation.metrics.get(spec.name, unavailable(reason)), value=None, interval=None, reason=reason)


def check_relations(planned: Evaluation, **others: Evaluation) -> None:
    """Raises `DataError` if results of another model are of other rows; names both fingerprints.

    Args:
        planned: what the model was or will be evaluated on; see `plan_of`.
        others: results by role: "retrained", "before", "reference". A reference may read other tokens, as it may be of
            another family.
    """
    for role, other in others.items():
        check_same_rows(planned, other, f"--{role}", as_tokens=role != "reference")


def _measured(evaluation: Evaluation) -> Measured:
    num_rows = {name: facts.num_rows for name, facts in evaluation.sets.items()}
    return Measured(evaluation.metrics, evaluation.features, num_rows)
