"""Metrics that need a second model's results: by hand, only what was given, and only over the same rows."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_tokenizer
from fixtures_scores import row, set_of, text
from tokenizers import normalizers

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Message, Row
from egup_trainer.errors import DataError
from egup_trainer.evaluation.evaluation import (
    Evaluation,
    SetFacts,
    check_same_rows,
    read_evaluation,
    write_evaluation,
)
from egup_trainer.evaluation.metric import Metric, auc_metric, unavailable
from egup_trainer.evaluation.privacy import forget_quality, privleak, reference_attack
from egup_trainer.evaluation.relative import check_relations, with_relations
from egup_trainer.evaluation.rows import RowSet, texts_of
from egup_trainer.evaluation.run import plan_of
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites import plan
from egup_trainer.evaluation.suites.plan import Suite

SETS = {name: SetFacts(4, place * 16) for name, place in (("forget", "a"), ("retain", "b"), ("holdout", "c"))}
LATER = ("forget_quality", "privleak", "mia_reference", "entanglement_retain_cka", "entanglement_retain_shift")


def an_evaluation(name="ours", forget=(1.0, 2.0), holdout=(3.0, 4.0), ratios=(1.0, 2.0, 3.0, 3.5), features=None):
    """Results as a suite leaves them before any other model's are at hand."""
    sets = ("forget", dict(enumerate(forget))), ("holdout", dict(enumerate(holdout)))
    attack = auc_metric(*sets, num_rows=8)
    return Evaluation(
        name,
        "tofu",
        "forget10",
        SETS,
        metrics={
            "retain_probability": Metric(0.9, True),
            "forget_quality": forget_quality(dict(enumerate(ratios)), None),
            "mia_loss": attack,
            "mia_min_k": attack,
            "mia_reference": reference_attack(attack, None),
            "privleak": privleak(attack, None),
            "entanglement_retain_cka": unavailable("no features of the model before unlearning", True),
            "entanglement_retain_shift": unavailable("no features of the model before unlearning", False),
        },
        features=features or {},
        feature_ids={name: list(range(len(rows))) for name, rows in (features or {}).items()},
    )


def features(forget, retain):
    return {"forget": np.array(forget, dtype=np.float32), "retain": np.array(retain, dtype=np.float32)}


def test_without_another_model_nothing_changes():
    ours = an_evaluation()
    assert with_relations(ours) == ours
    assert [name for name, value in ours.values.items() if value is None] == [
        "forget_quality",
        "mia_reference",
        "privleak",
        "entanglement_retain_cka",
        "entanglement_retain_shift",
    ]


def test_the_retrained_model_gives_forget_quality_and_privleak():
    ours = an_evaluation()
    retrained = an_evaluation("retrained", forget=(3.0, 4.0), holdout=(3.0, 4.0), ratios=(4.0, 5.0, 6.0, 7.0))
    related = with_relations(ours, retrained=retrained)
    quality, leak = related.metrics["forget_quality"], related.metrics["privleak"]
    assert quality.value == pytest.approx(2 / 70)
    assert (quality.num_samples, quality.num_skipped) == (4, 0)
    assert quality.values == {"forget": {0: 1.0, 1: 2.0, 2: 3.0, 3: 3.5}}
    assert leak.value == pytest.approx(100 * ((1 - 1) - (1 - 0.5)) / (1 - 0.5))
    assert {name for name in ours.metrics if related.metrics[name] != ours.metrics[name]} == {
        "forget_quality",
        "privleak",
    }
    assert replace(related, metrics={}) == replace(ours, metrics={})
    assert list(related.metrics) == list(ours.metrics)
    assert ours.values["forget_quality"] is None  # what was given stays as it was


def test_the_retrained_model_against_itself_cannot_be_told_apart():
    retrained = an_evaluation("retrained", forget=(1.0, 3.5))
    related = with_relations(retrained, retrained=retrained)
    assert (related.values["forget_quality"], related.values["privleak"]) == (1.0, 0.0)


def test_privleak_reads_min_k_alone():
    others = {"mia_loss": unavailable("no holdout rows", None)}
    ours, retrained = (
        replace(each, metrics=each.metrics | others)
        for each in (an_evaluation(forget=(3.0, 4.0)), an_evaluation("retrained", forget=(1.0, 3.5)))
    )
    assert with_relations(ours, retrained=retrained).values["privleak"] == pytest.approx(100 * (0.5 - 0.25) / 0.25)


def test_a_retrained_model_without_numbers_gives_none():
    retrained = an_evaluation("retrained", forget=(), ratios=())
    related = with_relations(an_evaluation(), retrained=retrained)
    assert (related.values["forget_quality"], related.values["privleak"]) == (None, None)
    assert related.metrics["privleak"].reason == (
        "the retrained model's results lack it: no forget rows with this number"
    )


def test_the_model_before_gives_alignment_and_shift():
    then = features([[1, 0], [-1, 0]], [[1, 0], [-1, 0], [0, 1], [0, -1]])
    now = features([[1, 0], [-1, 0]], [[1, 0], [-1, 0], [2, 0], [2, 0]])  # the forget rows have no voice
    related = with_relations(an_evaluation(features=now), before=an_evaluation("before", features=then))
    assert related.values["entanglement_retain_shift"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    # Centred, now is 0, -2, 1, 1 along one line: X'X = 6, Y'Y = 2 I, X'Y = (2, 0).
    assert related.values["entanglement_retain_cka"] == pytest.approx(4 / (6 * 2 * 2**0.5))
    assert related.metrics["entanglement_retain_cka"].num_samples == 4
    assert {name for name in related.metrics if related.metrics[name] != an_evaluation().metrics[name]} == {
        "entanglement_retain_cka",
        "entanglement_retain_shift",
    }


def test_the_model_before_against_itself_has_not_moved():
    before = an_evaluation("before", features=features([[1, 0], [2, 1]], [[0, 1], [3, -1], [1, 2]]))
    related = with_relations(before, before=before)
    assert related.values["entanglement_retain_cka"] == pytest.approx(1)
    assert related.values["entanglement_retain_shift"] == pytest.approx(0)


def test_results_whose_features_are_lost_have_no_shift():
    ours = an_evaluation(features=features([[1, 0]], [[0, 1]]))
    related = with_relations(ours, before=an_evaluation("before"))
    for name in ("entanglement_retain_cka", "entanglement_retain_shift"):
        assert related.values[name] is None
        assert related.metrics[name].reason == "no features of the model before unlearning"


def test_the_reference_gives_its_attack():
    reference = an_evaluation("base", forget=(0.0, 3.0), holdout=(3.5, 3.5))
    related = with_relations(an_evaluation(), reference=reference)  # forget 1, -1 against holdout -0.5, 0.5
    assert related.values["mia_reference"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert related.metrics["mia_reference"].values == {"forget": {0: 1.0, 1: -1.0}, "holdout": {0: -0.5, 1: 0.5}}
    assert {name for name in related.metrics if related.metrics[name] != an_evaluation().metrics[name]} == {
        "mia_reference"
    }


def test_a_suite_gets_no_metric_that_it_does_not_have():
    few = replace(an_evaluation(), metrics={"retain_probability": Metric(0.9, True)})
    other = an_evaluation("other", features=features([[1, 0]], [[0, 1]]))
    assert with_relations(few, retrained=other, before=other, reference=other) == few


def test_relations_are_the_same_from_files(tmp_path):
    before = an_evaluation("before", features=features([[1, 0], [2, 1]], [[0, 1], [3, -1], [1, 1]]))
    retrained = an_evaluation("retrained", forget=(2.5, 3.5), ratios=(2.0, 5.0, 6.0, 7.0))
    ours = an_evaluation(features=features([[1, 1], [2, 0]], [[0, 3], [3, 1], [0, 1]]))
    read = {}
    for each in (ours, before, retrained):
        write_evaluation(tmp_path / f"{each.name}.json", each)
        read[each.name] = read_evaluation(tmp_path / f"{each.name}.json")
    others = {"retrained": retrained, "before": before, "reference": before}
    from_files = {role: read[each.name] for role, each in others.items()}
    related = with_relations(ours, **others)
    assert with_relations(read["ours"], **from_files).metrics == related.metrics
    assert None not in [related.values[name] for name in LATER]


def test_what_a_suite_leaves_open_is_what_relations_need():
    rows = [row(0.5, perturbed=(text(0.25),)), row(0.5, perturbed=(text(0.125),))] * 2
    parts = plan.likeness_to_retrained(set_of(*rows)) | plan.membership(set_of(*rows), set_of(*rows, name="holdout"))
    metrics: dict[str, Metric] = {}
    for name, compute in parts.items():
        metrics[name] = compute(metrics)
    assert metrics["forget_quality"].reason == metrics["privleak"].reason == "no results of a retrained model"
    assert metrics["mia_reference"].reason == "no results of a reference model"
    retrained = an_evaluation("retrained", forget=(1.0, 3.5))  # against holdout 3, 4: three pairs of four
    related = with_relations(replace(an_evaluation(), metrics=metrics), retrained=retrained)
    assert related.values["forget_quality"] == pytest.approx(2 / 70)  # 0.5 and 0.25, all below 1, 2, 3 and 3.5
    assert related.values["privleak"] == pytest.approx(100 * (0.5 - 0.25) / 0.25)


@pytest.mark.parametrize("role", ["retrained", "before", "reference"])
@pytest.mark.parametrize(
    ("change", "got", "expected"),
    [
        ({"suite": "muse"}, "suite muse", "suite tofu"),
        ({"split": "forget05"}, "split forget05", "split forget10"),
        ({"split": None}, "split None", "split forget10"),
        (
            {"sets": SETS | {"retain": SetFacts(4, "d" * 16)}},
            f"retain rows of fingerprint {'d' * 16}",
            f"retain rows of fingerprint {'b' * 16}",
        ),
        (
            {"sets": {name: SETS[name] for name in ("forget", "retain")}},
            "holdout rows of fingerprint missing",
            f"holdout rows of fingerprint {'c' * 16}",
        ),
        (
            {"sets": SETS | {"world_facts": SetFacts(4, "d" * 16)}},
            f"world_facts rows of fingerprint {'d' * 16}",
            "world_facts rows of fingerprint missing",
        ),
    ],
)
def test_results_of_other_rows_are_refused(role, change, got, expected):
    other = replace(an_evaluation("other"), **change)
    with pytest.raises(DataError) as caught:
        with_relations(an_evaluation(), **{role: other})
    assert str(caught.value) == (
        f"Got --{role} with {got}, but expected {expected}, that of ours. "
        "Evaluate both models on the same suite, split and rows."
    )


def test_results_of_the_same_rows_may_be_compared_whatever_else_differs():
    check_same_rows(an_evaluation(), replace(an_evaluation("other"), metrics={}, run={"seed": 1}), "--retrained")


def a_suite(answer="Aren", split="forget10"):
    rows = [Row((Message("user", "Where?"),), answer)]
    return Suite("custom", split, [RowSet("forget", rows)], dict)


@pytest.fixture
def planned(tokenizer):
    """planned(suite, name): what is known before a model is run."""

    def plan(suite, name, options=None, by=tokenizer):
        return plan_of(suite, options or ScoringOptions(), name, texts_of(suite.row_sets, by, False))

    return plan


def test_rows_are_compared_before_a_model_is_run(planned):
    results = planned(a_suite(), "retrained")
    check_relations(planned(a_suite(), "ours"), retrained=results, before=results)
    check_relations(planned(a_suite(), "ours"))
    ours, theirs = a_suite("Bryle").row_sets[0].fingerprint, results.sets["forget"].fingerprint
    with pytest.raises(DataError) as caught:
        check_relations(planned(a_suite("Bryle"), "ours"), before=results)
    assert str(caught.value) == (
        f"Got --before with forget rows of fingerprint {theirs}, but "
        f"expected forget rows of fingerprint {ours}, that of ours. "
        "Evaluate both models on the same suite, split and rows."
    )
    with pytest.raises(DataError) as caught:
        check_relations(planned(a_suite(split=None), "ours"), retrained=results)
    assert str(caught.value) == (
        "Got --retrained with split forget10, but expected split None, that of ours. "
        "Evaluate both models on the same suite, split and rows."
    )


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": (Message("user", "Who?"),)},
        {"prompt": (Message("system", "Where?"),)},
        {"prompt": ()},
        {"answer": "Bryle"},
        {"paraphrase": "In Aren"},
        {"perturbed": ("Corvo",)},
        {"alternatives": ("Corvo",)},
    ],
)
def test_a_fingerprint_tells_each_text_of_a_row(change):
    before = Row((Message("user", "Where?"),), "Aren")
    prints = {RowSet("forget", [each]).fingerprint for each in (before, replace(before, **change))}
    assert len(prints) == 2
    assert RowSet("other", [before], max_length=9).fingerprint == RowSet("forget", [before]).fingerprint


def test_a_fingerprint_tells_the_order_and_number_of_rows():
    rows = [Row((), "Aren"), Row((), "Bryle")]
    prints = {RowSet("forget", each).fingerprint for each in (rows, rows[::-1], rows[:1], rows + rows)}
    assert len(prints) == 4
    assert {len(each) for each in prints} == {16}


def test_results_made_with_other_settings_are_refused(planned):
    ours = planned(a_suite(), "ours")
    theirs = planned(a_suite(), "theirs", ScoringOptions(feature_layer=-1))
    with pytest.raises(DataError) as caught:
        check_relations(ours, before=theirs)
    assert str(caught.value) == (
        "Got --before with feature_layer -1, but expected feature_layer 0.5, that of ours. "
        "Evaluate both models on the same suite, split and rows."
    )
    cut = replace(a_suite(), row_sets=[replace(each, max_length=64) for each in a_suite().row_sets])
    with pytest.raises(DataError, match="with forget max_length 64, but expected forget max_length 2048"):
        check_relations(ours, retrained=planned(cut, "theirs"))


DATED = (
    "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}{% for m in messages %}{{ m.role + m.content }}<eos>{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role + m.content }}<eos>{% endfor %}"


def with_template(tokenizer, text):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = text
    return tokenizer


def on(day):
    suite = a_suite()
    return replace(suite, row_sets=[replace(each, template=Template(date=day)) for each in suite.row_sets])


def test_results_of_other_tokens_are_refused_and_what_differs_is_named(planned, tokenizer):
    dated, plain = with_template(tokenizer, DATED), with_template(tokenizer, PLAIN)
    ours = planned(on("2026-11-28"), "ours", by=dated)
    check_relations(ours, before=planned(on("2026-11-28"), "before", by=dated))
    with pytest.raises(DataError) as caught:
        check_relations(ours, before=planned(on("2026-11-29"), "before", by=dated))
    assert str(caught.value) == (
        "Got --before with forget rows written with template_date 2026-11-29, but expected forget rows written with "
        "template_date 2026-11-28, that of ours. Evaluate both models with the same chat template and tokenizer, and "
        "with the same --template_date."
    )
    with pytest.raises(DataError, match="Got --retrained with forget rows written by the chat template of digest"):
        check_relations(planned(a_suite(), "ours", by=plain), retrained=planned(a_suite(), "theirs", by=tokenizer))
    other = with_template(make_tokenizer(), PLAIN)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(DataError, match="Got --before with forget rows whose tokens, which the tokenizer makes, have"):
        check_relations(planned(a_suite(), "ours", by=plain), before=planned(a_suite(), "theirs", by=other))
    check_relations(planned(a_suite(), "ours", by=plain), reference=planned(a_suite(), "theirs", by=other))


def test_a_tokenizer_that_differs_in_what_makes_no_tokens_is_the_same(planned, tokenizer):
    ours, other = with_template(tokenizer, PLAIN), with_template(tokenizer, PLAIN)
    other.name_or_path, other.padding_side, other.model_max_length = "elsewhere", "left", 7
    check_relations(planned(a_suite(), "ours", by=ours), before=planned(on("2001-01-01"), "theirs", by=other))
    # Templates that differ in what these rows have nothing of are the same, too.
    other.chat_template = PLAIN + "{% if tools %}tools{% endif %}"
    check_relations(planned(a_suite(), "ours", by=ours), before=planned(a_suite(), "theirs", by=other))
