"""Metrics that need a second model's results: the retrained model's, or those of the model before unlearning."""

from dataclasses import replace

from egup_trainer.evaluation import entanglement
from egup_trainer.evaluation.evaluation import Evaluation, check_same_rows
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.privacy import forget_quality, privleak, reference_attack


def with_relations(
    evaluation: Evaluation,
    *,
    retrained: Evaluation | None = None,
    before: Evaluation | None = None,
    reference: Evaluation | None = None,
) -> Evaluation:
    """The evaluation with the metrics that compare it with other models, as far as these are given.

    A metric whose other model is not given stays as it was. All is computed from per-sample numbers and features; no
    model is run.

    Args:
        retrained: the model trained without the forget set: for forget quality and privleak.
        before: the model before unlearning: for the shift of retain features and centred kernel alignment.
        reference: a model that tells how hard a text is in itself, such as the base model: for the reference attack.

    Raises:
        DataError: one of them was evaluated on other rows; both fingerprints are named.
    """
    metrics = dict(evaluation.metrics)
    if retrained is not None:
        check_same_rows(evaluation, retrained, "--retrained")
        metrics |= _against_retrained(evaluation, retrained)
    if before is not None:
        check_same_rows(evaluation, before, "--before")
        metrics |= _against_before(evaluation, before)
    if reference is not None:
        check_same_rows(evaluation, reference, "--reference", as_tokens=False)  # it may be of another family
        metrics |= _against_reference(evaluation, reference)
    return replace(evaluation, metrics=metrics)


def check_relations(planned: Evaluation, **others: Evaluation) -> None:
    """Raises `DataError` if results of another model are of other rows than planned; names both fingerprints.

    Args:
        planned: what the model is going to be evaluated on, from `plan_of`.
        others: results by role ("retrained", "before", "reference").
    """
    for role, other in others.items():
        check_same_rows(planned, other, f"--{role}", as_tokens=role != "reference")


def _against_retrained(evaluation: Evaluation, retrained: Evaluation) -> dict[str, Metric]:
    found = {}
    if "forget_quality" in evaluation.metrics:
        ratios, theirs = (each.metrics["forget_quality"].values.get("forget", {}) for each in (evaluation, retrained))
        found["forget_quality"] = forget_quality(ratios, theirs, evaluation.sets["forget"].num_rows)
    if "privleak" in evaluation.metrics:
        found["privleak"] = privleak(evaluation.metrics["mia_min_k"], retrained.metrics["mia_min_k"])
    return found


def _against_before(evaluation: Evaluation, before: Evaluation) -> dict[str, Metric]:
    if "entanglement_retain_shift" not in evaluation.metrics:
        return {}
    now, then = (each.features.get("retain") for each in (evaluation, before))
    return {
        "entanglement_retain_cka": entanglement.centred_kernel_alignment(now, then),
        "entanglement_retain_shift": entanglement.retain_shift(now, then),
    }


def _against_reference(evaluation: Evaluation, reference: Evaluation) -> dict[str, Metric]:
    if "mia_reference" not in evaluation.metrics:
        return {}
    return {"mia_reference": reference_attack(evaluation.metrics["mia_loss"], reference.metrics["mia_loss"])}
