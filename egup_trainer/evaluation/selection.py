"""Some metrics of a suite: the suite that computes them alone, on the least that the model must be run on."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from egup_trainer.errors import ConfigError, did_you_mean
from egup_trainer.evaluation.metric_registry import MetricSpec, Reads, declaration_of
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scores import RowRole
from egup_trainer.evaluation.suites.suite import Plan, Scores, Suite, metric_names

_TO_KEEP = (RowRole.RETAIN, RowRole.CHOICE)


def chosen_metrics(suite: Suite, names: Iterable[str] | None, with_generations: bool = True) -> list[str]:
    """The metrics to compute, with those that they build on, in the suite's order.

    Args:
        names: of the metrics; None for all.
        with_generations: whether the model may write; if not, all metrics that need it are left out.

    Raises:
        ConfigError: the suite has no metric of such a name, or one of `names` needs generations that are not made.

    Example:
        >>> # chosen_metrics(custom_suite(forget, holdout=holdout), ["privleak"])  # ['mia_min_k', 'privleak']
    """
    known = metric_names(suite)
    wanted = known if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise ConfigError(
                got=f"the unknown metric {name} in --metrics",
                expected=f"metrics of the suite {suite.name} on these rows",
                fix=did_you_mean(name, known, f"choose among {', '.join(known)}"),
            )
    if not wanted:
        raise ConfigError(got="no metric in --metrics", expected="names of metrics", fix="name some, or leave it out")
    if not with_generations:
        writing = [name for name in wanted if any(_reads(each, Reads.GENERATIONS) for each in _bases(suite, name))]
        if writing and names is not None:
            raise ConfigError(
                got=f"--skip_generation with {writing[0]} in --metrics",
                expected="metrics that need no generations",
                fix=f"leave out --skip_generation or {writing[0]}",
            )
        wanted = [name for name in wanted if name not in writing]
    found = {base for name in wanted for base in _bases(suite, name)}
    return [name for name in known if name in found]


def reads(names: Iterable[str], what: Reads) -> bool:
    """Whether one of the metrics reads that."""
    return any(_reads(name, what) for name in names)


def selected(suite: Suite, names: Collection[str]) -> Suite:
    """The suite with these metrics alone, and of its rows what they read; rows of its own are not changed."""
    if list(names) == metric_names(suite):
        return suite
    row_sets = [part for each in suite.row_sets if (part := _part(each, names)) is not None]

    def plan(scores: Scores) -> Plan:
        return {name: number for name, number in suite.plan(scores).items() if name in names}

    return replace(suite, row_sets=row_sets, plan=plan)


def _bases(suite: Suite, name: str) -> set[str]:
    """The metric, and all that it builds on."""
    spec, _ = declaration_of(name)
    kept = [each.name for each in suite.row_sets if each.use.role in _TO_KEEP]
    known, found = metric_names(suite), {name}
    for base in () if spec is None else spec.builds_on:
        keys = [base, *(f"{row_set}_{base}" for row_set in kept)]
        found |= {key for key in keys if key in known}
    return found


def _reads(name: str, what: Reads) -> bool:
    spec, _ = declaration_of(name)
    return spec is None or _may_read(spec, what)  # a metric that was not declared may read everything


def _may_read(spec: MetricSpec, what: Reads) -> bool:
    return spec.reads is None or what in spec.reads


def _part(row_set: RowSet, names: Collection[str]) -> RowSet | None:
    """Of a row set what the metrics read, or None if they read nothing of it."""
    found = [(spec, of_set) for spec, of_set in map(declaration_of, names)]
    if any(spec is None or (spec.section is not None and spec.reads is None) for spec, _ in found):
        return row_set
    own = [spec for spec, of_set in found if spec is not None and of_set == row_set.name]
    of_suite = [spec for spec, of_set in found if spec is not None and spec.section is not None]
    used = {what for what in Reads if _is_read(what, row_set, own, of_suite)}
    if not own and not used:
        return None
    rows = row_set.rows
    if not {Reads.OTHER_ANSWERS, Reads.HOLDOUT_ANSWERS} & used:
        rows = [replace(row, paraphrase=None, perturbed=()) for row in rows]
    return replace(
        row_set,
        rows=rows,
        generation=row_set.generation if Reads.GENERATIONS in used else None,
        with_features=row_set.with_features and Reads.FEATURES in used,
        with_membership=row_set.with_membership and Reads.MEMBERSHIP in used,
        use=replace(row_set.use, perplexity=Reads.PERPLEXITY in used),
    )


def _is_read(what: Reads, row_set: RowSet, own: list[MetricSpec], of_suite: list[MetricSpec]) -> bool:
    """Whether metrics of the set itself, or of the suite, read that of the set."""
    is_choice = what is Reads.OTHER_ANSWERS and row_set.use.role is RowRole.CHOICE
    if any(_may_read(spec, what) or is_choice for spec in own):
        return True
    has_it = {
        Reads.GENERATIONS: row_set.use.fluency,
        Reads.PERPLEXITY: row_set.use.fluency,
        Reads.FEATURES: row_set.with_features,
        Reads.MEMBERSHIP: row_set.name in ("forget", "holdout"),
        Reads.OTHER_ANSWERS: row_set.name == "forget",
        Reads.HOLDOUT_ANSWERS: row_set.name == "holdout",
    }
    return has_it[what] and any(_may_read(spec, what) for spec in of_suite)
