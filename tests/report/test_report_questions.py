"""The three questions of the report, and what they are answered with."""

from dataclasses import replace

import pytest
from fixtures_audit import invented_audit
from fixtures_report import make_evaluation, make_evaluations

from egup_trainer.audit import ATTACKS
from egup_trainer.audit.attack import Finding
from egup_trainer.evaluation.metric import Metric
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.questions import questions
from egup_trainer.report.verdict import judgments

MODELS = [make_evaluation(name) for name in ("before", "egup_clreg")]


def asked(evaluations, retrained=None, audits=()):
    comparison = Comparison.of(evaluations, retrained)
    return questions(comparison, judgments(comparison), audits)


@pytest.fixture(scope="module")
def invented():
    return make_evaluations()


def ended_at(name, level, **beside):
    """An audit whose relearned model gives the other rows that probability."""
    audit = invented_audit(name, level, **beside)
    return replace(audit, findings={"relearning": Finding({"forget_end": Metric(level)})})


def test_whether_it_is_gone_and_what_was_harmed(invented):
    gone, harmed, _ = asked(*invented)
    assert gone.text == "Is it gone?"
    assert gone.answers["egup_clreg"].short == "Yes."
    unseen, recited, single = gone.answers["egup_clreg"].said
    assert unseen.startswith(
        "Forget rows cannot be distinguished from rows never seen: probability 0.045, before 0.94;"
    )
    assert recited == "Recited nearly word for word: 0 of 60 forget answers."
    assert "above the highest forget probability of the retrained model" in single
    assert gone.answers["gradient_difference"].short == "Cannot be judged, since the model is harmed."
    assert harmed.answers["egup_clreg"].short == "No."
    assert harmed.answers["egup_clreg"].said == ["Retain rows hold: probability 0.93, before 0.95."]
    assert harmed.answers["gradient_difference"].short == "Yes."
    assert harmed.answers["gradient_difference"].said == ["Retain rows lost probability: 0.95 to 0.78."]


def test_nothing_is_said_of_harm_where_it_was_not_measured():
    alone = asked([make_evaluation("egup_clreg")])[1].answers["egup_clreg"]
    assert (alone.short, alone.said) == (
        "Not known.",
        ["The model before unlearning was not evaluated. Name its results first."],
    )
    models = [replace(each, metrics={k: v for k, v in each.metrics.items() if "retain" not in k}) for each in MODELS]
    answer = asked(models)[1].answers["egup_clreg"]
    assert (answer.short, answer.said) == ("Not known.", ["No rows to keep were measured (--retain of egup evaluate)."])


def test_without_an_audit_a_command_says_how_to_test(invented):
    question = asked(*invented)[2]
    assert {answer.short for answer in question.answers.values()} == {"Not tested."}
    assert question.command == (
        "egup audit --model_name_or_path gradient_difference --forget FORGET --retain RETAIN --model_before BEFORE "
        "--output audit.json"
    )


@pytest.mark.parametrize(
    ("level", "short"),
    [
        (0.35, "Yes, more of it than from a model that never saw the rows. Relearning gets furthest."),
        (0.15, "No more of it than from a model that never saw the rows. Relearning gets furthest."),
    ],
)
def test_attacks_are_compared_with_those_on_the_retrained_model(level, short):
    audit = ended_at("another name", level, retrained=ended_at("retrained", 0.1))
    question = asked(MODELS, None, [audit])[2]
    assert question.command == ""
    assert question.answers["egup_clreg"].short == short
    assert question.answers["egup_clreg"].said == [
        f"Relearning: After training on a few of the rows, the others have probability {level:.3f}; "
        "in the retrained model 0.100."
    ]


def test_the_attack_that_got_furthest_is_quoted_first_with_its_interval():
    ours, theirs = (ended_at(name, level) for name, level in (("egup_clreg", 0.3), ("retrained", 0.2)))
    audits = [
        replace(each, findings={**each.findings, "sampling": Finding({"best_rouge": Metric(value, interval=bounds)})})
        for each, value, bounds in ((ours, 0.75, (0.7, 0.8)), (theirs, 0.5, (0.4, 0.6)))
    ]
    answer = asked(MODELS, None, [replace(audits[0], retrained=audits[1])])[2].answers["egup_clreg"]
    assert answer.short == "Yes, more of it than from a model that never saw the rows. Sampling gets furthest."
    assert answer.said[0] == (
        "Sampling: The best of several random answers has this share of the answer's words: 0.750 "
        "(95% interval 0.700 to 0.800); in the retrained model 0.500."
    )
    assert answer.said[1].startswith("Relearning: After training on a few of the rows")


def test_without_a_retrained_model_attacks_are_compared_with_the_model_before():
    audit = ended_at("egup_clreg", 0.3, before=ended_at("before", 0.6))
    answer = asked(MODELS, None, [audit])[2].answers["egup_clreg"]
    assert answer.short.startswith("Relearning gets furthest, to 50% of the model before; without a retrained model")
    assert answer.said[0].endswith("the others have probability 0.300; in the model before 0.600.")


def test_attacks_on_one_method_say_nothing_of_another(invented):
    evaluations, _ = invented
    question = asked(evaluations, None, [ended_at("egup_clreg", 0.3)])[2]
    assert question.answers["egup_clreg"].short.startswith("Tested; without a retrained model")
    assert question.answers["gradient_difference"].short == "Not tested."
    assert question.command


def test_attacks_that_do_not_show_it_leave_it_open():
    audit = replace(invented_audit("egup_clreg", 0.2), findings={})
    assert asked(MODELS, None, [audit])[2].answers["egup_clreg"].short == (
        "Not known: none of the attacks that show it was run."
    )


def test_what_quantization_brings_back_belongs_to_the_third_question():
    run = {"unlearning": {"probability": {"merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.3}}}}
    models = [MODELS[0], replace(MODELS[1], run=run)]
    assert asked(models)[2].answers["egup_clreg"].said == [
        "Quantized: forget probability 0.300 in 4 bits, 0.100 before quantization."
    ]


@pytest.mark.parametrize("level", [0.15, 0.35])
def test_an_attack_without_a_number_to_compare_keeps_a_no_from_being_said(level):
    """Relearning brought nearly all of it back, but failed on the retrained model; sampling found nothing."""
    ours = ended_at("egup_clreg", 0.95)
    sampling = {"sampling": Finding({"best_rouge": Metric(level)})}
    theirs = replace(ended_at("retrained", 0.1), findings={"sampling": Finding({"best_rouge": Metric(0.1)})})
    audit = replace(ours, findings={**ours.findings, **sampling}, retrained=theirs)
    short = asked(MODELS, None, [audit])[2].answers["egup_clreg"].short
    if level > 0.3:
        assert short == "Yes, more of it than from a model that never saw the rows. Sampling gets furthest."
    else:
        assert short == (
            "Not known: of Relearning, there is nothing to compare. Of the other attacks, Sampling gets furthest, to "
            "no more than from a model that never saw the rows."
        )


def test_an_attack_that_failed_keeps_a_no_from_being_said():
    audit = ended_at("egup_clreg", 0.15, retrained=ended_at("retrained", 0.1))
    audit = replace(audit, findings={**audit.findings, "merging": Finding(reason="failed: MemoryError: none")})
    short = asked(MODELS, None, [audit])[2].answers["egup_clreg"].short
    assert short.startswith("Not known: of Merging, there is nothing to compare.")


def test_an_audit_of_another_name_is_found_by_its_folder():
    """Two runs whose results files have the same names: evaluations are called a/after, and audits a/audit."""
    models = [replace(each, name=f"{each.name}/after", run={"model": each.name}) for each in MODELS]
    methods = [each for each in models if each.name not in ("before/after", "retrained/after")]
    audits = [replace(ended_at(f"{each.name}/audit", 0.3), run={"model": each.run["model"]}) for each in methods]
    answers = asked(models, None, audits)[2].answers
    assert "Not tested." not in {answers[each.name].short for each in methods if each.name in answers}


def test_attacks_that_were_not_run_are_named_and_nothing_is_denied_without_the_strongest():
    brings_back = [name for name, attack in ATTACKS.items() if attack.brings_back]

    def answer(*not_run, reason=None):
        found = {name: Finding({next(iter(ATTACKS[name].brings_back)): Metric(0.1)}) for name in brings_back}
        theirs = replace(ended_at("retrained", 0.1), findings=found)
        ours = {name: each for name, each in found.items() if name not in not_run}
        ours |= {name: Finding(reason=reason) for name in not_run if reason}
        audit = replace(ended_at("egup_clreg", 0.1), retrained=theirs, findings=ours)
        return asked(MODELS, None, [audit])[2].answers["egup_clreg"].short

    no = "o more of it than from a model that never saw the rows. "
    assert answer().startswith(f"N{no}")
    assert "Not run" not in answer()
    assert answer("merging", reason="no model before").endswith("gets furthest. Not run: Merging.")
    assert "Not run" not in answer("merging")  # nobody asked for it
    for reason in (None, "too few rows"):
        assert answer("relearning", reason=reason).startswith(
            f"Not known: Relearning, the strongest attack, was not run. By the other attacks, n{no}"
        )
