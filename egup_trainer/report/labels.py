"""Names and meanings of metrics for a reader of the report, from where the metrics and attacks are declared."""

from egup_trainer.evaluation import registry
from egup_trainer.evaluation.registry import OTHER, MetricText, Section

_ATTACKS = {  # an audit's metrics are named ATTACK_METRIC
    "relearning": (
        "Relearning",
        "Probability of forget answers while the model is fine-tuned on a few other forget rows (forget), on retain "
        "rows (retain), and of the relearned rows (relearned). Speed is the mean over the curve.",
    ),
    "quantization": ("Quantisation", "The same rows with the weights as given, in 8 bits and in 4."),
    "prompts": (
        "Prompts",
        "Forget rows asked in other ways: reworded, in another language, after a phrase, after examples, with the "
        "answer begun.",
    ),
    "sampling": ("Sampling", "ROUGE-L recall of generations sampled at temperature 1: the best and the mean per row."),
    "probe": ("Probe", "AUC for distinguishing forget from holdout rows by a layer's features; 0.5 is chance."),
    "membership": ("Membership attacks", "AUC for distinguishing forget from holdout rows; 0.5 is chance."),
}


def sections() -> list[str]:
    """Parts of the table, in its order."""
    return [*(section.value for section in Section), *(section for section, _ in _ATTACKS.values()), OTHER]


def describe(metric: str) -> MetricText:
    """Words for a metric; a metric that was not declared is listed under its own name.

    Example:
        >>> describe("sampling_best_rouge").label, describe("mine").section
        ('best rouge', 'Other')
    """
    attack, _, label = metric.partition("_")
    if attack in _ATTACKS:
        section, meaning = _ATTACKS[attack]
        return MetricText(section, label.replace("_", " "), section, meaning)
    return registry.describe(metric)


def reading_order(metric: str) -> tuple[int, str, int]:
    """Sort key of a metric: its section, its row set, and its position among the declared ones."""
    section = describe(metric).section
    if section not in list(Section):
        return sections().index(section), "", 0
    return registry.reading_order(metric)
