"""The groups of metrics that suites are made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from egup_trainer.data.schema import OnLongRow
from egup_trainer.evaluation import entanglement, fluency, memorization, privacy
from egup_trainer.evaluation.memorization import RougeForm, TruthRatioForm
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scores import SetScores

Scores = Mapping[str, SetScores]
Plan = dict[str, Callable[[Mapping[str, Metric]], Metric]]
"""How each metric is computed, by name and in order: a function of the metrics before it."""


@dataclass(frozen=True)
class Suite:
    """Row sets, and what is computed of a model's numbers on them.

    Args:
        name: "tofu", "muse" or "custom".
        split: which part of the suite, or None.
        row_sets: what the model is run on.
        plan: from the numbers, by row set, to the metrics that need no other model. Those that do are named, too, with
            the reason why they have no value yet.
    """

    name: str
    split: str | None
    row_sets: list[RowSet]
    plan: Callable[[Scores], Plan]

    def reading(self, date: str, on_long_row: OnLongRow) -> "Suite":
        """The suite with the date that chat templates write as today's, YYYY-MM-DD, and what becomes of long rows."""
        row_sets = [
            replace(each, template=replace(each.template, date=date), on_long_row=on_long_row) for each in self.row_sets
        ]
        return replace(self, row_sets=row_sets)


def metric_names(suite: Suite) -> list[str]:
    """Names of all metrics that the suite can have, before anything is computed."""
    return list(suite.plan({each.name: SetScores(each.name) for each in suite.row_sets}))


def knowledge(scores: SetScores, *, is_forgotten: bool, rouge: RougeForm) -> Plan:
    """Probability, ROUGE, truth ratio in two forms, exact memorization and extraction strength of a set."""
    name, higher = scores.name, not is_forgotten
    form = TruthRatioForm.FORGET if is_forgotten else TruthRatioForm.TRUTH
    return {
        f"{name}_probability": lambda _: memorization.probability(scores, higher),
        f"{name}_rouge": lambda _: memorization.rouge(scores, rouge, higher),
        f"{name}_truth_ratio": lambda _: memorization.truth_ratio(scores, form),
        f"{name}_truth_probability": lambda _: memorization.truth_ratio(scores, TruthRatioForm.PROBABILITY),
        f"{name}_exact_memorization": lambda _: memorization.exact_memorization(scores, higher),
        f"{name}_extraction_strength": lambda _: memorization.extraction_strength(scores, higher),
    }


def multiple_choice(scores: SetScores, rouge: RougeForm) -> Plan:
    """Probability among the options, ROUGE, and truth ratio in two forms of a set of general knowledge."""
    name = scores.name
    return {
        f"{name}_probability": lambda _: memorization.probability_with_options(scores),
        f"{name}_rouge": lambda _: memorization.rouge(scores, rouge, True),
        f"{name}_truth_ratio": lambda _: memorization.truth_ratio(scores, TruthRatioForm.TRUTH),
        f"{name}_truth_probability": lambda _: memorization.truth_ratio(scores, TruthRatioForm.PROBABILITY),
    }


def membership(forget: SetScores, holdout: SetScores | None) -> Plan:
    """The six attacks, privleak, and the probability of rows never seen."""
    plan: Plan = {
        name: lambda _, name=name: privacy.attack(name, forget, holdout)  # type: ignore[misc]
        for name in privacy.ATTACKS
    }
    plan["mia_reference"] = lambda done: privacy.reference_attack(done["mia_loss"], None)
    plan["privleak"] = lambda done: privacy.privleak(done["mia_min_k"], None)
    if holdout is not None:
        plan["holdout_probability"] = lambda _: memorization.probability(holdout, None)
    return plan


def likeness_to_retrained(forget: SetScores) -> Plan:
    """Forget quality; without a retrained model it holds the truth ratios that it will be computed from."""
    return {"forget_quality": lambda _: privacy.forget_quality(memorization.raw_truth_ratios(forget), None)}


def language(forget: SetScores) -> Plan:
    """Whether what is written after forget prompts is still language."""
    return {
        "fluency_perplexity": lambda _: fluency.perplexity(forget),
        "fluency_distinct_2": lambda _: fluency.distinct(forget),
        "fluency_repetition": lambda _: fluency.repetition(forget),
    }


def representation(forget: SetScores, retain: SetScores | None) -> Plan:
    """Entanglement of forget and retain features, and their shift from the model before unlearning."""
    kept = None if retain is None else retain.features
    return {
        "entanglement_variance_ratio": lambda _: entanglement.variance_ratio(forget.features, kept),
        "entanglement_probe_auc": lambda _: entanglement.probe_auc(forget.features, kept),
        "entanglement_overlap": lambda _: entanglement.overlap(forget.features, kept),
        "entanglement_retain_cka": lambda _: entanglement.centred_kernel_alignment(kept, None),
        "entanglement_retain_shift": lambda _: entanglement.retain_shift(kept, None),
    }
