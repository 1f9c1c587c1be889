"""The verdict on a run: whether the forget rows are forgotten, and whether anything else was harmed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from math import comb, exp, isfinite, sqrt
from statistics import NormalDist, fmean, variance
from typing import Any

from egup_trainer.modeling.ks_test import LEVEL, ks_p_value, least_p_value
from egup_trainer.records.judgments import LEAST_KNOWN, is_damaged, knows_proxies

LEAST_PROGRESS = 0.25
"""Share of the way to rows never seen below which rows count as not forgotten at all."""

LEAST_WAY = 0.5
"""Share of the way to rows never seen that forgotten rows must have come. Few rows cannot be distinguished from others
even if they have come less far."""

MOST_RISE_OF_UNSEEN = 2.0
"""By how much the loss of rows never seen may rise, nats per token. It rises somewhat in retraining, too, since what is
forgotten has taught the model about rows of its kind."""

MOST_REPETITION = 0.2
"""By how much the share of repeated word sequences may lie above that of answers to other questions."""

ASKED_OTHERWISE_LEVEL = 0.01
"""Level of the test of rows that are asked in another way. It is below that of the main test, so that two tests do not
find a difference by chance more often than one by much."""

LEAST_WAY_OTHERWISE = 0.75
"""The same where they are asked in another way, and differ from rows never seen by the test. A small lead is
left by the best runs; a model that hides the rows from the usual prompt alone has come no part of the way."""

LEAST_RECITED = 0.9
"""ROUGE-L recall from which on a generation counts as the answer word for word."""


class Status(str, Enum):
    """What became of the forget rows."""

    FORGOTTEN = "FORGOTTEN"
    PARTLY_FORGOTTEN = "PARTLY FORGOTTEN"
    NOT_FORGOTTEN = "NOT FORGOTTEN"
    OVER_FORGOTTEN = "OVER-FORGOTTEN"
    MODEL_HARMED = "MODEL HARMED"
    UNKNOWN = "UNKNOWN"


AFTER_EXAMPLE = "After another question and its answer"
"""How the reason begins that only a run measures, and no evaluation."""

_UNSEEN = "rows never seen"

_MEANINGS = {
    Status.FORGOTTEN: "The model treats the rows to forget as it treats rows that it has never seen.",
    Status.PARTLY_FORGOTTEN: "The model still knows something of the rows to forget.",
    Status.NOT_FORGOTTEN: "The model still knows the rows to forget.",
    Status.OVER_FORGOTTEN: "The rows were pushed away too far: the model treats them differently from rows that it "
    "has never seen, which reveals that it was trained on them.",
    Status.MODEL_HARMED: "The model was damaged: it has lost more than the rows to forget.",
    Status.UNKNOWN: "The measurements at hand do not say whether the rows are forgotten.",
}


_OF_OTHERS = {
    "of_others": "name what belongs to retain rows",
    "recites_others": "are answers of retain rows, nearly word for word",
}
"""What is said of generations that contain what belongs to others, by the field that counts them."""


@dataclass(frozen=True)
class SetMeasures:
    """What was measured of one set of rows under one model.

    Args:
        nll: l of each row, the mean negative log-likelihood of its answer tokens, nats per token.
        rouge: of each row that was asked, the share of the answer's words that the greedy generation has.
        repetition: of each generation, the share of four-word sequences that stood in it before.
        of_others: generations with a name that belongs to retain rows, and to no row of the set.
        nll_after_example: l of rows that are read after a retain row and its answer, nats per token; empty if not
            measured.
        recites_others: generations that are the answer of a retain row, word for word or nearly, and not that of their
            own row.
    """

    nll: list[float]
    rouge: list[float] = field(default_factory=list)
    repetition: list[float] = field(default_factory=list)
    of_others: int = 0
    nll_after_example: list[float] = field(default_factory=list)
    recites_others: int = 0

    @property
    def probability(self) -> float:
        """Mean over rows of exp(-l)."""
        return mean_probability(self.nll)

    @property
    def recited(self) -> int:
        """Rows whose generation is the answer, word for word or nearly."""
        return sum(value >= LEAST_RECITED for value in self.rouge)


def mean_probability(nlls: Sequence[float]) -> float:
    """Mean over rows of exp(-l)."""
    return fmean(exp(-nll) for nll in nlls)


@dataclass(frozen=True)
class Measures:
    """What was measured of one model: forget rows, retain rows, rows that no model saw, and neighbors.

    Neighbors are rows on things that are related to what is to be forgotten, which the model should still know. `name`
    is what the model is called where others are compared with it.
    """

    forget: SetMeasures
    retain: SetMeasures | None = None
    unseen: SetMeasures | None = None
    neighbor: SetMeasures | None = None
    name: str = "the retrained model"


@dataclass(frozen=True)
class Verdict:
    """What became of the forget rows, and what shows it.

    Args:
        status: in two words.
        reasons: the measurements that decide it, a sentence each.
        remarks: what else a reader should know, a sentence each.
    """

    status: Status
    reasons: list[str]
    remarks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self) | {"status": self.status.value}

    @property
    def meaning(self) -> str:
        """The status as a sentence, for readers who know no metric."""
        return _MEANINGS[self.status]

    @property
    def lines(self) -> list[str]:
        """The verdict as text: the status, then a sentence a line."""
        return [f"Verdict: {self.status.value}", *(f"  {said}" for said in (*self.reasons, *self.remarks))]


@dataclass(frozen=True)
class _Yardstick:
    """What forgotten rows should look like.

    Args:
        rows: what was measured of them under the model to be judged or, with a retrained model, under that.
        start: the same under the model before unlearning; with a retrained model as in `rows`.
        name: what they are.
        beside: what stands before a number of theirs.
    """

    rows: SetMeasures
    start: SetMeasures
    name: str
    beside: str


def verdict(before: Measures, after: Measures, retrained: Measures | None = None) -> Verdict:
    """Judges a model after unlearning by the model before, and by rows that neither saw.

    The model is harmed if its retain rows lost more than a tenth of their probability, or are answered worse than
    before beyond chance, or if its answers to their questions repeat themselves, or if the loss of rows never seen rose
    by more than 2 nats per token. If it is not, the forget rows are

    - not forgotten if their l has come less than a quarter of the way to that of rows never seen;
    - forgotten if the two cannot be distinguished (Kolmogorov-Smirnov, p above 0.05) and they have come at least half
      of the way, no more of the answers are recited than of rows never seen, beyond chance, and the generations do not
      repeat themselves;
    - partly forgotten if they are likelier than rows never seen, or have come less than half of the way, or more of
      them are recited, or if they have come less than three quarters of the way to those when both are read after a
      retain row and its answer (p below 0.01): then only the usual prompt hides them;
    - over-forgotten if they are less likely than rows never seen, or the generations repeat themselves.

    The status is unknown where the rows were as unlikely before, or no rows never seen were measured, or too few of
    them for the test, or where a row has no finite number any more.

    With a retrained model, the forget rows under that model are a second yardstick: the same rows in a model that never
    saw them, while other rows may be harder or easier, and another retrained model would say something else again. Rows
    are partly forgotten or over-forgotten only if they are likelier or less likely than by both yardsticks, beyond
    chance. All else that is said of rows never seen holds for the retrained model alone.

    Args:
        before: of the model before unlearning.
        after: of the model to be judged, on the same rows.
        retrained: of a model that never saw the forget rows, on the same rows: the retrained model, or the proxy model.

    Example:
        >>> rows = lambda nll: SetMeasures([nll + 0.01 * row for row in range(20)])
        >>> known = Measures(rows(0.1), rows(0.1), rows(3.0))
        >>> verdict(known, Measures(rows(3.0), rows(0.1), rows(3.0))).status.value
        'FORGOTTEN'
        >>> verdict(known, known).status.value
        'NOT FORGOTTEN'
        >>> retrained = Measures(rows(5.0))
        >>> verdict(known, Measures(rows(2.0), rows(0.1), rows(3.0)), retrained).status.value
        'PARTLY FORGOTTEN'
        >>> verdict(known, Measures(rows(3.0), rows(0.1), rows(3.0)), retrained).status.value  # as rows never seen
        'FORGOTTEN'
    """
    remarks = _remarks(before, after)
    if lost := _rows_without_a_number(before, after, retrained):
        return Verdict(Status.UNKNOWN, [lost], remarks)
    harm, likely = harm_done(before, after), likelihood(before, after, retrained)
    if harm:
        return Verdict(Status.MODEL_HARMED, [*harm, likely], remarks)
    yardstick = _yardstick(before, after, retrained)
    lacking = _why_unknown(before, yardstick, retrained)
    if yardstick is None or lacking:
        return Verdict(Status.UNKNOWN, [lacking], remarks)
    if after.forget.rouge and _others_with("rouge", after, yardstick) is None:
        remarks = [*remarks, "Whether too many are recited is not known: nothing was written for rows never seen."]
    beside = [likelihood(before, after)] if retrained is not None and after.unseen is not None else []
    reasons = [likely, *beside, *harm_absent(before, after)]
    status, why = _of_forget_rows(before, after, yardstick)
    if status is Status.FORGOTTEN and beside and _side(after.forget, yardstick.rows):
        reasons = [*beside, *(said for said in reasons if said not in beside)]  # first what they are like
    return Verdict(status, [why, *reasons] if why else reasons, remarks)


def _of_forget_rows(before: Measures, after: Measures, yardstick: _Yardstick) -> tuple[Status, str]:
    """What became of the forget rows of an unharmed model, and why, unless their likelihood says it."""
    start, now, aim = (fmean(rows.nll) for rows in (before.forget, after.forget, yardstick.rows))
    if now - start < LEAST_PROGRESS * (aim - start):
        return Status.NOT_FORGOTTEN, ""
    if known := _recitation(after, yardstick) or _known_after_example(before, after, yardstick):
        return Status.PARTLY_FORGOTTEN, known
    sides = {_side(after.forget, rows) for rows in (yardstick.rows, after.unseen) if rows is not None}
    if sides == {-1}:
        return Status.PARTLY_FORGOTTEN, ""
    aims = {yardstick.name: aim} | ({} if after.unseen is None else {_UNSEEN: fmean(after.unseen.nll)})
    nearest = min(aims, key=lambda name: aims[name])
    if now - start < LEAST_WAY * (aims[nearest] - start):
        way = (now - start) / (aims[nearest] - start)
        return Status.PARTLY_FORGOTTEN, f"Forget rows have come only {way:.0%} of the way to {nearest}."
    if sides == {1}:
        return Status.OVER_FORGOTTEN, ""
    broken = _broken_text(before, after, yardstick)
    return (Status.OVER_FORGOTTEN if broken else Status.FORGOTTEN), broken


def _side(measured: SetMeasures, others: SetMeasures) -> int:
    """1 if rows are less likely than others, -1 if they are likelier, and 0 if the two cannot be distinguished."""
    if ks_p_value(measured.nll, others.nll) > LEVEL:
        return 0
    return -1 if fmean(measured.nll) < fmean(others.nll) else 1


def _yardstick(before: Measures, after: Measures, retrained: Measures | None) -> _Yardstick | None:
    if retrained is not None:
        under = f"under {retrained.name}"
        return _Yardstick(retrained.forget, retrained.forget, f"the same rows {under}", under)
    if after.unseen is None or before.unseen is None:
        return None
    return _Yardstick(after.unseen, before.unseen, _UNSEEN, _UNSEEN)


def _why_unknown(before: Measures, yardstick: _Yardstick | None, retrained: Measures | None) -> str:
    """Why nothing can be said of the forget rows; empty if something can."""
    if yardstick is None:
        return (
            "No rows that the model never saw were measured (--proxy of egup unlearn, --holdout of egup evaluate), and "
            "no model that never saw the forget rows."
        )
    ours, theirs = len(before.forget.nll), len(yardstick.start.nll)
    if least_p_value(ours, theirs) > LEVEL:
        more = "rows to forget" if retrained else "rows never seen"
        return (
            f"Too few rows for a test: {ours} to forget, compared with {theirs} {yardstick.beside}. Give more {more}."
        )
    likely, of_unseen = before.forget.probability, yardstick.start.probability
    if retrained is None and likely >= LEAST_KNOWN and knows_proxies(likely, of_unseen):
        return (
            f"The rows that the model has supposedly never seen had probability {_p(yardstick.start)} before, and the "
            f"forget rows {_p(before.forget)}. Give rows that it has not seen."
        )
    if _side(before.forget, yardstick.start) >= 0:
        said = "The model did not know the forget rows before, or not in this prompt format: they were as unlikely as"
        return f"{said} {yardstick.name}."
    return ""


def _rows_without_a_number(before: Measures, after: Measures, retrained: Measures | None) -> str:
    """Which rows have lost their number, which must never be taken for forgotten or unharmed; empty if none."""
    models = {"before unlearning": before, "after unlearning": after}
    models |= {} if retrained is None else {f"under {retrained.name}": retrained}
    for name in ("forget", "retain", "unseen", "neighbor"):
        for when, model in models.items():
            measured = getattr(model, name)
            for read, nlls in {"": "nll", ", read after an example,": "nll_after_example"}.items():
                values = [] if measured is None else getattr(measured, nlls)
                lost = sum(not isfinite(nll) for nll in values)
                if lost:
                    return f"{lost} of {len(values)} {name} rows{read} have no finite number {when}."
    return ""


def likelihood(before: Measures, after: Measures, retrained: Measures | None = None) -> str:
    """How likely the forget rows are, before and after, beside rows never seen or the retrained model; a sentence."""
    numbers = f"probability {_p(after.forget)}, before {_p(before.forget)}"
    yardstick = _yardstick(before, after, retrained)
    if yardstick is None:
        return f"Forget rows have {numbers}."
    chance = ks_p_value(after.forget.nll, yardstick.rows.nll)
    apart = "cannot be distinguished from" if chance > LEVEL else "differ from"
    level = f"p = {chance:.2g}" if chance >= 0.001 else "p < 0.001"
    return f"Forget rows {apart} {yardstick.name}: {numbers}; {yardstick.beside} {_p(yardstick.rows)} ({level})."


def harm_done(before: Measures, after: Measures) -> list[str]:
    """What was harmed besides the forget rows, a sentence each; empty if nothing was."""
    said = []
    if before.retain is not None and after.retain is not None:
        if is_damaged(before.retain.probability, after.retain.probability):
            said.append(f"Retain rows lost probability: {_p(before.retain)} to {_p(after.retain)}.")
        if _is_lower(after.retain.rouge, before.retain.rouge):
            first, last = fmean(before.retain.rouge), fmean(after.retain.rouge)
            said.append(f"Retain questions are answered worse: ROUGE-L {first:.2f} to {last:.2f}.")
        broken = _repeats(after.retain, before.retain, "retain questions")
        said += [broken] if broken else []
    if before.unseen is not None and after.unseen is not None:
        first, last = fmean(before.unseen.nll), fmean(after.unseen.nll)
        if last - first > MOST_RISE_OF_UNSEEN:
            said.append(f"Rows never seen became less likely: a loss of {last:.2g}, before {first:.2g} nats per token.")
    return said


def harm_absent(before: Measures, after: Measures) -> list[str]:
    """What holds if nothing was harmed, a sentence each; empty if no rows to keep were measured."""
    if before.retain is None or after.retain is None:
        return []
    return [f"Retain rows hold: probability {_p(after.retain)}, before {_p(before.retain)}."]


def neighbors(before: Measures, after: Measures) -> list[str]:
    """What became of the neighbors, a sentence; empty if none were measured.

    It decides no status: in retraining, too, related knowledge changes with what taught it.
    """
    if before.neighbor is None or after.neighbor is None:
        return []
    first, last = before.neighbor.probability, after.neighbor.probability
    what = "lost probability" if is_damaged(first, last) else "hold"
    return [f"Neighbor rows {what}: {_p(after.neighbor)}, before {_p(before.neighbor)}."]


def _remarks(before: Measures, after: Measures) -> list[str]:
    said = neighbors(before, after)
    if after.forget.rouge:
        said.append(
            f"Recited nearly word for word: {after.forget.recited} of {len(after.forget.rouge)} forget answers."
        )
    for name, what in _OF_OTHERS.items():
        now, start = getattr(after.forget, name), getattr(before.forget, name)
        if now > start:
            beside = f"before {start}"
            if after.unseen is not None and after.unseen.rouge:
                of_unseen = f"{getattr(after.unseen, name)} of {len(after.unseen.rouge)}"
                beside += f", to questions about rows never seen {of_unseen}"
            said.append(f"{now} of {len(after.forget.rouge)} answers to forget questions {what} ({beside}).")
    return said


def _others_with(measured: str, after: Measures, yardstick: _Yardstick) -> tuple[SetMeasures, str] | None:
    """Rows of which something was measured, and what stands before a number of theirs; None if it was of none.

    They are the yardstick's. Where a retrained model was evaluated without it, they are the rows never seen.
    """
    others = [(yardstick.rows, yardstick.beside), *([] if after.unseen is None else [(after.unseen, _UNSEEN)])]
    return next(((rows, beside) for rows, beside in others if getattr(rows, measured)), None)


def _recitation(after: Measures, yardstick: _Yardstick) -> str:
    """Whether more forget answers are found in the generations than chance explains; empty if not."""
    ours, found = after.forget, _others_with("rouge", after, yardstick)
    if not ours.rouge or found is None:
        return ""
    theirs, beside = found
    if _is_lower(theirs.rouge, ours.rouge):
        said = f"ROUGE-L {fmean(ours.rouge):.2f}, {beside} {fmean(theirs.rouge):.2f}"
        return f"The model still writes the forget answers: {said}."
    if _chance_of_more(ours, theirs) <= LEVEL / 2:
        said = f"{ours.recited} of {len(ours.rouge)}, {beside} {theirs.recited} of {len(theirs.rouge)}"
        return f"The model still recites forget answers nearly word for word: {said}."
    return ""


def _chance_of_more(ours: SetMeasures, theirs: SetMeasures) -> float:
    """The p-value of Fisher's exact test, one-sided: of at least so many recited rows in the first of two sets.

    Formula: sum_k C(n, k) C(m, r - k) / C(n + m, r) over k from the recited rows of the first set, with n and m rows
    in the sets and r recited rows in both.

    Example:
        >>> _chance_of_more(SetMeasures([], rouge=[1.0, 1.0]), SetMeasures([], rouge=[0.0, 0.0])) == 1 / 6
        True
    """
    num_ours, num_theirs, recited = len(ours.rouge), len(theirs.rouge), ours.recited + theirs.recited
    ways = (comb(num_ours, k) * comb(num_theirs, recited - k) for k in range(ours.recited, recited + 1))
    return sum(ways) / comb(num_ours + num_theirs, recited)


def _known_after_example(before: Measures, after: Measures, yardstick: _Yardstick) -> str:
    """Whether forget rows are much likelier than rows never seen if both are read after an example; empty if not."""
    ours, found = after.forget.nll_after_example, _others_with("nll_after_example", after, yardstick)
    if not ours or found is None:
        return ""
    theirs, beside = found[0].nll_after_example, found[1]
    if ks_p_value(ours, theirs) <= ASKED_OTHERWISE_LEVEL:
        start = fmean(before.forget.nll)
        if fmean(ours) - start < LEAST_WAY_OTHERWISE * (fmean(theirs) - start):
            numbers = f"probability {mean_probability(ours):.2g}, {beside} {mean_probability(theirs):.2g}"
            return f"{AFTER_EXAMPLE}, the model still knows the forget rows: {numbers}."
    return ""


def _broken_text(before: Measures, after: Measures, yardstick: _Yardstick) -> str:
    """Whether answers to forget questions repeat themselves; those of the model before serve where no others are."""
    other = yardstick.rows if yardstick.rows.repetition else before.forget
    return _repeats(after.forget, other, "questions about what is to be forgotten")


def _repeats(measured: SetMeasures, other: SetMeasures | None, questions: str) -> str:
    if not measured.repetition or other is None or not other.repetition:
        return ""
    ours, theirs = fmean(measured.repetition), fmean(other.repetition)
    if ours <= theirs + MOST_REPETITION:
        return ""
    return f"Answers to {questions} repeat themselves: {ours:.0%} of their word sequences, {theirs:.0%} elsewhere."


def _is_lower(values: Sequence[float], others: Sequence[float]) -> bool:
    """Whether a mean is lower than another beyond chance (z-test at `LEVEL`, by at least 0.1).

    Example:
        >>> _is_lower([0.1] * 9 + [0.2], [0.9] * 9 + [0.8]), _is_lower([0.1, 0.1], [0.9, 0.9])
        (True, False)
    """
    sizes = (len(values), len(others))
    if min(sizes) < 2 or least_p_value(*sizes) > LEVEL:
        return False  # so few could differ by chance, whatever their spread
    difference = fmean(others) - fmean(values)
    error = sqrt(variance(values) / len(values) + variance(others) / len(others))
    return difference >= 0.1 and difference > NormalDist().inv_cdf(1 - LEVEL / 2) * error


def _p(measured: SetMeasures) -> str:
    return f"{measured.probability:.2g}"
