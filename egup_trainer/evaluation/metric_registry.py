"""The registry of metrics: each is declared once, in its own file, and tables, report and docs read the declarations.

A metric of a row set is a function of the set's scores; its key in results is SET_NAME, such as "forget_rouge":

    @set_metric("rouge", label="ROUGE-L", meaning="...", direction=Direction.KNOWLEDGE)
    def rouge(scores: SetScores) -> Metric: ...

A metric of a whole suite is a function of all scores and of the metrics before it; its key is its name:

    @suite_metric("privleak", Section.MEMBERSHIP, label="PrivLeak", meaning="...", other="retrained")
    def privleak(model: Measured, retrained: Measured | None) -> Metric: ...

The docstring of the function is the metric's definition in the docs.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import wraps
from inspect import getdoc
from typing import Any

import numpy as np

from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.scores import RowRole, SetScores
from egup_trainer.evaluation.suites import SUITES


class Direction(Enum):
    """Which way is good; its value says so in words."""

    HIGHER = "higher"
    LOWER = "lower"
    RETRAINED = "nearest to the retrained model's"
    KNOWLEDGE = "forget rows: lower, down to the retrained model's; rows to keep: higher"
    HIGHER_ON_KEPT = "forget rows: nearest to the retrained model's; rows to keep: higher"

    def higher_is_better(self, role: RowRole | None = None) -> bool | None:
        """Whether higher is better on rows of that role; None if only nearness to the retrained model counts.

        Example:
            >>> Direction.KNOWLEDGE.higher_is_better(RowRole.FORGET)
            False
        """
        if self is Direction.RETRAINED or role is RowRole.UNSEEN:
            return None
        if role is RowRole.FORGET and self is not Direction.HIGHER:
            return None if self is Direction.HIGHER_ON_KEPT else False
        return self is not Direction.LOWER


class Reads(Enum):
    """What a metric reads beside the numbers of the answers' tokens, and what is left out if no metric needs it."""

    GENERATIONS = "generations"
    PERPLEXITY = "generations under the model before unlearning"
    FEATURES = "features"
    MEMBERSHIP = "numbers of membership inference"
    OTHER_ANSWERS = "paraphrased and wrong answers"
    HOLDOUT_ANSWERS = "paraphrased and wrong answers of holdout rows"


class Section(str, Enum):
    """Parts of the report's table, in its order; suites choose by them which suite metrics they have."""

    SUMMARY = "Summary"
    FORGET = "Forget set"
    RETAIN = "Retain set"
    OTHER_ROWS = "Other rows"
    MEMBERSHIP = "Membership"
    REPRESENTATION = "Representation"
    FLUENCY = "Fluency"
    BENCHMARKS = "Benchmarks"


@dataclass(frozen=True)
class Measured:
    """What is known of one model on one suite, for the metrics of a suite.

    Args:
        metrics: computed so far, by name.
        features: by row set; see `SetScores`.
        sets: scores by row set; empty for results that were read back from a file.
    """

    metrics: Mapping[str, Metric]
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    num_rows: Mapping[str, int] = field(default_factory=dict)
    sets: Mapping[str, SetScores] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricSpec:
    """The declaration of a metric.

    Args:
        name: of the metric; for a set metric the name of the set comes before it in results.
        label: its name in tables.
        meaning: one line for readers of the report.
        direction: which way is good.
        compute: from `SetScores`, or from `Measured` and, if `other` is given, that of the other model or None.
        section: part of the table; None for a set metric, which appears with its set.
        roles: of the sets that a set metric is computed on, unless the set names its metrics.
        other: role of the other model whose results the metric needs: "retrained", "before" or "reference".
        needs: what the metric needs to have a value, for the docs.
        reads: what it reads besides the log-probabilities of answer tokens. A suite metric reads it from the sets that
            have it. None stands for everything.
        builds_on: names of the metrics that it is computed from, those of the other model, too; of a set metric, on
            each set of rows to keep.
    """

    name: str
    label: str
    meaning: str
    direction: Direction
    compute: Callable[..., Metric]
    section: Section | None = None
    roles: Collection[RowRole] = ()
    other: str | None = None
    needs: str = ""
    reads: Collection[Reads] | None = None
    builds_on: Collection[str] = ()

    @property
    def definition(self) -> str:
        """The definition: the docstring of the function that computes the metric, up to its arguments."""
        return (getdoc(self.compute) or "").partition("\n\nArgs:")[0].partition("\n\nExample:")[0]


@dataclass(frozen=True)
class MetricText:
    """Words for a metric.

    Args:
        section: the part of the table where it appears.
        term: its name in the list of meanings; metrics of several row sets share one.
        meaning: one line; empty for a metric that was not declared.
    """

    section: str
    label: str
    term: str
    meaning: str


OTHER = "Other"
"""Section of metrics that were not declared."""
KEPT_AND_FORGOTTEN = (RowRole.FORGET, RowRole.RETAIN)
_METRICS: dict[str, MetricSpec] = {}
_FAMILIES: dict[str, tuple[Section, str]] = {}


def set_metric(
    name: str,
    *,
    label: str,
    meaning: str,
    direction: Direction,
    roles: Collection[RowRole] = KEPT_AND_FORGOTTEN,
    needs: str = "",
    reads: Collection[Reads] | None = None,
) -> Callable[[Callable[[SetScores], Metric]], Callable[[SetScores], Metric]]:
    """Declares a metric of single row sets.

    Args:
        name: of the metric; in results, the name of the set comes before it.
        label: its name in tables.
        meaning: one line for readers of the report.
        direction: which way is good.
        roles: of the sets that it is computed on, unless the set names its metrics.
        needs: what it needs to have a value, for the docs.
        reads: what it reads besides the log-probabilities of answer tokens; None stands for everything.

    Example:
        >>> # @set_metric("words", label="Words", meaning="Words in a generation.", direction=Direction.RETRAINED)
        >>> # def words(scores): return mean_metric(scores.name, {...}, num_rows=len(scores), without="no generation")
    """

    def declare(function: Callable[[SetScores], Metric]) -> Callable[[SetScores], Metric]:
        @wraps(function)
        def compute(scores: SetScores) -> Metric:
            return replace(function(scores), higher_is_better=direction.higher_is_better(scores.use.role))

        _METRICS[name] = MetricSpec(name, label, meaning, direction, compute, roles=roles, needs=needs, reads=reads)
        return compute

    return declare


def suite_metric(
    name: str,
    section: Section,
    *,
    label: str,
    meaning: str,
    direction: Direction,
    other: str | None = None,
    needs: str = "",
    reads: Collection[Reads] | None = None,
    builds_on: Collection[str] = (),
) -> Callable[[Callable[..., Metric]], Callable[..., Metric]]:
    """Declares a metric of a whole suite.

    Args:
        name: of the metric.
        section: part of the table.
        label: its name in tables.
        meaning: one line for readers of the report.
        direction: which way is good.
        other: role of the other model whose results it needs: "retrained", "before" or "reference".
        needs: what it needs to have a value, for the docs.
        reads: what it reads, of the sets that have it, besides the log-probabilities of answer tokens; None stands for
            everything.
        builds_on: names of the metrics that it is computed from, those of the other model, too.
    """

    def declare(function: Callable[..., Metric]) -> Callable[..., Metric]:
        @wraps(function)
        def compute(*args: Any, **kwargs: Any) -> Metric:
            return replace(function(*args, **kwargs), higher_is_better=direction.higher_is_better())

        _METRICS[name] = MetricSpec(
            name,
            label,
            meaning,
            direction,
            compute,
            section,
            other=other,
            needs=needs,
            reads=reads,
            builds_on=builds_on,
        )
        return compute

    return declare


def declare_family(prefix: str, section: Section, meaning: str) -> None:
    """Declares all metrics whose names begin with `prefix`, for names that are only known at run time."""
    _FAMILIES[prefix] = section, meaning


def declared_metrics() -> list[MetricSpec]:
    """All metrics, in the order of tables.

    Example:
        >>> [spec.name for spec in declared_metrics()][:2]
        ['probability', 'rouge']
    """
    import egup_trainer.evaluation.metrics  # noqa: F401

    return list(_METRICS.values())


def describe(metric: str) -> MetricText:
    """Words for a metric by its key in results; one that was not declared appears under its own name.

    Example:
        >>> describe("real_authors_rouge").label, describe("mine").section
        ('ROUGE-L, real authors', 'Other')
    """
    for prefix, (section, meaning) in _FAMILIES.items():
        if metric.startswith(prefix):
            return MetricText(section.value, metric.removeprefix(prefix), metric.removeprefix(prefix), meaning)
    spec, row_set = declaration_of(metric)
    if spec is None:
        return MetricText(OTHER, metric, metric, "")
    if spec.section is not None:
        return MetricText(spec.section.value, spec.label, spec.label, spec.meaning)
    first, _, rest = row_set.partition("_")
    sections = {"forget": Section.FORGET, "retain": Section.RETAIN}
    titles = {name: title for suite in SUITES.values() for name, title in suite.set_titles.items()}
    title = titles.get(row_set, (rest if first in sections else row_set).replace("_", " "))
    label = f"{spec.label}, {title}" if title else spec.label
    return MetricText(sections.get(first, Section.OTHER_ROWS).value, label, spec.label, spec.meaning)


def reading_order(metric: str) -> tuple[int, str, int]:
    """Sort key of a metric: its section, its row set, and its position among the declared ones."""
    spec, row_set = declaration_of(metric)
    order = [*(section.value for section in Section), OTHER]
    position = len(_METRICS) if spec is None else list(_METRICS).index(spec.name)
    return order.index(describe(metric).section), row_set, position


def declaration_of(metric: str) -> tuple[MetricSpec | None, str]:
    """The declaration behind a key in results, and the row set in the key; None for a metric that was not declared."""
    declared_metrics()
    if metric in _METRICS and _METRICS[metric].section is not None:
        return _METRICS[metric], ""
    found = [spec for spec in _METRICS.values() if spec.section is None and metric.endswith(f"_{spec.name}")]
    spec = max(found, key=lambda each: len(each.name), default=None)
    return spec, "" if spec is None else metric.removesuffix(f"_{spec.name}")
