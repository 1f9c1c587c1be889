"""Names and meanings of metrics for a reader of the report, from where the metrics and attacks are declared."""

from egup_trainer.audit import ATTACKS
from egup_trainer.evaluation import metric_registry
from egup_trainer.evaluation.metric_registry import OTHER, MetricText, Section


def sections() -> list[str]:
    """Parts of the table, in its order."""
    return [*(section.value for section in Section), *(attack.title for attack in ATTACKS.values()), OTHER]


def describe(metric: str) -> MetricText:
    """Words for a metric; a metric that was not declared is listed under its own name.

    Example:
        >>> describe("sampling_best_rouge").label, describe("mine").section
        ('best rouge', 'Other')
    """
    attack = next((each for name, each in ATTACKS.items() if metric.startswith(f"{name}_")), None)
    if attack is not None:  # what an attack found is named ATTACK_METRIC
        label = metric.removeprefix(f"{attack.name}_")
        return MetricText(attack.title, attack.label(label), attack.title, f"{attack.meaning} {attack.reading}")
    return metric_registry.describe(metric)


def reading_order(metric: str) -> tuple[int, str, int]:
    """Sort key of a metric: its section, its row set, and its position among the declared ones."""
    section = describe(metric).section
    if section not in list(Section):
        return sections().index(section), "", 0
    return metric_registry.reading_order(metric)
