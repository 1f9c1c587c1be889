"""The three questions that a report answers before it shows metrics, each for every method."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from egup_trainer.audit import ATTACKS
from egup_trainer.audit.audit import Audit
from egup_trainer.audit.worst import BroughtBack, brought_back
from egup_trainer.report.comparison import Comparison, Model
from egup_trainer.report.numbers import format_number
from egup_trainer.report.remarks import of_other_frameworks, on_rows, quantized
from egup_trainer.report.single_rows import single_rows
from egup_trainer.report.verdict import Judgment
from egup_trainer.verdict import Status, harm_absent, harm_done, neighbors

_MUCH = 0.1
"""By how much an attack must get further than on the retrained model to count."""

_STRONGEST = "relearning"

_GONE = {
    Status.FORGOTTEN: "Yes.",
    Status.PARTLY_FORGOTTEN: "Not wholly.",
    Status.NOT_FORGOTTEN: "No.",
    Status.OVER_FORGOTTEN: "Yes, but conspicuously.",
    Status.MODEL_HARMED: "Cannot be judged, since the model is harmed.",
    Status.UNKNOWN: "Not known.",
}


@dataclass(frozen=True)
class Answer:
    """An answer: in a word or two, and the measurements behind it, a sentence each."""

    short: str
    said: list[str]


@dataclass(frozen=True)
class Question:
    """A question, its answers by the method's name, and a command that would answer it; empty if none is needed."""

    text: str
    answers: dict[str, Answer]
    command: str = ""


def questions(comparison: Comparison, judged: dict[str, Judgment], audits: Sequence[Audit] = ()) -> list[Question]:
    """The questions, with an answer for each method; a method without an audit was not tested for the third."""
    rows = {name: found.sentences for name, found in single_rows(comparison).items()}
    methods = comparison.methods
    compared = of_other_frameworks([model for model in comparison.models if model not in methods])
    is_one = len(audits) == len(methods) == 1  # whatever it is called
    audit_of = {each.name: audits[0] if is_one else _audit_of(each, audits) for each in methods}
    return [
        Question("Is it gone?", {each.name: _gone(each, judged[each.name], rows, compared) for each in methods}),
        Question("Was anything else harmed?", {each.name: _harmed(judged[each.name]) for each in methods}),
        Question(
            "Can it be brought back?",
            {each.name: _brought_back(each, audit_of[each.name]) for each in methods},
            "" if None not in audit_of.values() else _audit_command(methods[0]),
        ),
    ]


def _audit_of(method: Model, audits: Sequence[Audit]) -> Audit | None:
    """The audit of a method's model: of the same name, or else of the same folder."""
    folder = method.run.get("model")
    of_folder = (each for each in audits if folder is not None and each.run.get("model") == folder)
    return next((each for each in audits if each.name == method.name), next(of_folder, None))


def _gone(model: Model, judged: Judgment, rows: dict[str, list[str]], compared: list[str]) -> Answer:
    found = judged.verdict
    of_harm: list[str] = []
    if judged.before is not None and judged.after is not None:  # these sentences answer the second question
        of_harm += harm_done(judged.before, judged.after)
        of_harm += harm_absent(judged.before, judged.after)
        of_harm += neighbors(judged.before, judged.after)
    said = [reason for reason in found.reasons[1:] if reason not in of_harm]  # the first stands with the verdict
    remarks = [remark for remark in found.remarks if remark not in of_harm]
    of_rows = [*rows.get(model.name, []), *on_rows(model.evaluation), *compared]
    return Answer(_GONE[found.status], [*said, *remarks, *of_rows])


def _harmed(judged: Judgment) -> Answer:
    if judged.before is None or judged.after is None:
        return Answer("Not known.", judged.verdict.reasons)
    harm = harm_done(judged.before, judged.after)
    unharmed = harm_absent(judged.before, judged.after)
    beside = neighbors(judged.before, judged.after)
    if harm:
        return Answer("Yes.", [*harm, *beside])
    if not unharmed:
        return Answer("Not known.", ["No rows to keep were measured (--retain of egup evaluate).", *beside])
    return Answer("No.", [*unharmed, *beside])


def _brought_back(model: Model, audit: Audit | None) -> Answer:
    rounded = quantized(model.evaluation)
    if audit is None:
        return Answer("Not tested.", rounded)
    found = brought_back(audit)
    return Answer(_how_far(found, audit), [*map(attack_sentence, found), *rounded])


def attack_sentence(found: BroughtBack) -> str:
    """What an attack brought back, beside the model that it is compared with.

    Example:
        >>> from egup_trainer.evaluation.metric import Metric
        >>> attack_sentence(BroughtBack("merging", "halfway_forget_probability", Metric(0.5, interval=(0.4, 0.6))))
        'Merging: Halfway to the model before, they have probability 0.500 (95% interval 0.400 to 0.600).'
    """
    attack = ATTACKS[found.attack]
    interval = found.metric.interval
    bounds = f" (95% interval {' to '.join(map(format_number, interval))})" if interval else ""
    others = {"the retrained model": found.retrained, "the model before": found.before}
    beside = (f"; in {name} {format_number(value)}" for name, value in others.items() if value is not None)
    value = format_number(found.metric.value)
    return f"{attack.title}: {attack.sentence_of(found.number)} {value}{bounds}{''.join(beside)}."


def _how_far(found: Sequence[BroughtBack], audit: Audit) -> str:
    """What the attack that got furthest means, beside the model that all are compared with.

    Attacks without a number to compare may have got further, so that nothing is known but for a clear yes. Nor is it
    if relearning was not run, the strongest attack.
    """
    if not found:
        return "Not known: none of the attacks that show it was run."
    worst = found[0]
    if worst.distance is None:
        return "Tested; without a retrained model, nothing says how much of it a few rows teach anew."
    title = ATTACKS[worst.attack].title
    if worst.retrained is None:
        return (
            f"{title} gets furthest, to {worst.distance:.0%} of the model before; without a retrained model, nothing "
            "says how much of it is taught anew."
        )
    if worst.distance > _MUCH:
        return f"Yes, more of it than from a model that never saw the rows. {title} gets furthest."
    missing = {attack: each for attack, each in audit.findings.items() if each.reason and ATTACKS[attack].brings_back}
    without = [each.attack for each in found if each.distance is None]
    without += [attack for attack, each in missing.items() if each.failed]
    if without:
        return (
            f"Not known: of {_titles(without)}, there is nothing to compare. Of the other attacks, {title} gets "
            "furthest, to no more than from a model that never saw the rows."
        )
    told = f"o more of it than from a model that never saw the rows. {title} gets furthest."
    if _STRONGEST not in audit.findings or _STRONGEST in missing:
        return (
            f"Not known: {ATTACKS[_STRONGEST].title}, the strongest attack, was not run. By the other attacks, n{told}"
        )
    return f"N{told}" + (f" Not run: {_titles(missing)}." if missing else "")


def _titles(attacks: Iterable[str]) -> str:
    return ", ".join(ATTACKS[attack].title for attack in attacks)


def _audit_command(model: Model) -> str:
    name = model.run.get("model")
    return (
        f"egup audit --model_name_or_path {name if isinstance(name, str) else 'MODEL'} --forget FORGET --retain RETAIN "
        "--model_before BEFORE --output audit.json"
    )
