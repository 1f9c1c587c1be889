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
from egup_trainer.evaluation.evaluation import Evaluation, SetFacts, read_evaluation, write_evaluation
from egup_trainer.evaluation.metric import Metric, auc_metric, unavailable
from egup_trainer.evaluation.metrics.forget_quality import forget_quality
from egup_trainer.evaluation.relative import check_relations, with_relations
from egup_trainer.evaluation.rows import RowSet, texts_of
from egup_trainer.evaluation.run import plan_of
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.suite import Suite, declared_plan

SETS = {name: SetFacts(4, letter * 16) for name, letter in (("forget", "a"), ("retain", "b"), ("holdout", "c"))}
NEEDS = {
    "retrained": {"forget_quality", "privleak"},
    "before": {"entanglement_retain_cka", "entanglement_retain_shift"},
    "reference": {"mia_reference"},
}


def an_evaluation(name="ours", forget=(1.0, 2.0), holdout=(3.0, 4.0), ratios=(1.0, 2.0, 3.0, 3.5), features=None):
    """Results as a suite leaves them before those of any other model are known."""
    attack = auc_metric(("forget", dict(enumerate(forget))), ("holdout", dict(enumerate(holdout))), num_rows=8)
    later = set().union(*NEEDS.values())
    found = {
        **{metric: unavailable("needs another model") for metric in later},
        "forget_quality": forget_quality(dict(enumerate(ratios)), None),
        "mia_loss": attack,
        "mia_min_k": attack,
        "retain_probability": Metric(0.9, True),
    }
    features = {} if features is None else dict(zip(("forget", "retain"), map(np.float32, features), strict=True))
    ids = {name: list(range(len(rows))) for name, rows in features.items()}
    return Evaluation(name, "tofu", "forget10", SETS, found, features=features, feature_ids=ids)


def changed(related, before):
    return {name for name in related.metrics if related.metrics[name] != before.metrics[name]}


def test_without_another_model_nothing_changes():
    assert with_relations(an_evaluation()) == an_evaluation()


@pytest.mark.parametrize("role", NEEDS)
def test_a_model_gives_what_needs_it_and_nothing_else(role):
    space = [[1, 0], [-1, 0]], [[1, 0], [-1, 0], [0, 1], [0, -1]]
    ours, other = an_evaluation(features=space), an_evaluation("other", forget=(3.0, 4.0), features=space)
    related = with_relations(ours, **{role: other})
    assert changed(related, ours) == NEEDS[role]
    assert None not in [related.values[name] for name in NEEDS[role]]
    assert (list(related.metrics), replace(related, metrics={})) == (list(ours.metrics), replace(ours, metrics={}))
    assert ours.values["forget_quality"] is None  # what was given stays as it was
    few = replace(ours, metrics={"retain_probability": Metric(0.9, True)})
    assert with_relations(few, **{role: other}) == few  # a suite gets no metric that it does not have


def test_forget_quality_and_privleak_by_hand():
    retrained = an_evaluation("retrained", forget=(3.0, 4.0), holdout=(3.0, 4.0), ratios=(4.0, 5.0, 6.0, 7.0))
    related = with_relations(an_evaluation(), retrained=retrained)
    quality, leak = related.metrics["forget_quality"], related.metrics["privleak"]
    assert quality.value == pytest.approx(2 / 70)
    assert (quality.num_samples, quality.num_skipped, quality.higher_is_better) == (4, 0, True)
    assert quality.values == {"forget": {0: 1.0, 1: 2.0, 2: 3.0, 3: 3.5}}
    assert leak.value == pytest.approx(100 * ((1 - 1) - (1 - 0.5)) / (1 - 0.5))
    itself = with_relations(retrained, retrained=retrained)
    assert (itself.values["forget_quality"], itself.values["privleak"]) == (1.0, 0.0)


def test_privleak_reads_min_k_alone():
    others = {"mia_loss": unavailable("no holdout rows")}
    ours, retrained = (
        replace(each, metrics=each.metrics | others)
        for each in (an_evaluation(forget=(3.0, 4.0)), an_evaluation("retrained", forget=(1.0, 3.5)))
    )
    assert with_relations(ours, retrained=retrained).values["privleak"] == pytest.approx(100 * (0.5 - 0.25) / 0.25)


def test_another_model_without_numbers_gives_none():
    related = with_relations(an_evaluation(), retrained=an_evaluation("retrained", forget=(), ratios=()))
    assert (related.values["forget_quality"], related.values["privleak"]) == (None, None)
    assert related.metrics["privleak"].reason == (
        "the retrained model's results lack it: no forget rows with this number"
    )
    related = with_relations(an_evaluation(features=([[1, 0]], [[0, 1]])), before=an_evaluation("before"))
    for name in NEEDS["before"]:
        assert related.metrics[name].value is None
        assert related.metrics[name].reason == "no features of the model before unlearning"


def test_results_that_lack_a_metric_take_the_earlier_number_away():
    retrained = an_evaluation("retrained", ratios=(4.0, 5.0, 6.0, 7.0))
    related = with_relations(an_evaluation(), retrained=retrained)
    fewer = {name: metric for name, metric in retrained.metrics.items() if name != "forget_quality"}
    now = with_relations(related, retrained=replace(retrained, metrics=fewer))
    assert (related.values["forget_quality"], now.values["forget_quality"]) == (pytest.approx(2 / 70), None)
    assert now.metrics["forget_quality"].reason == "the results of --retrained lack forget_quality"
    assert now.values["privleak"] == related.values["privleak"]


def test_alignment_and_shift_by_hand():
    then = [[1, 0], [-1, 0]], [[1, 0], [-1, 0], [0, 1], [0, -1]]
    now = [[1, 0], [-1, 0]], [[1, 0], [-1, 0], [2, 0], [2, 0]]  # the forget rows do not count
    related = with_relations(an_evaluation(features=now), before=an_evaluation("before", features=then))
    assert related.values["entanglement_retain_shift"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    # Centred, now is 0, -2, 1, 1 along one line: X'X = 6, Y'Y = 2 I, X'Y = (2, 0).
    assert related.values["entanglement_retain_cka"] == pytest.approx(4 / (6 * 2 * 2**0.5))
    before = an_evaluation("before", features=([[1, 0], [2, 1]], [[0, 1], [3, -1], [1, 2]]))
    itself = with_relations(before, before=before)
    assert itself.values["entanglement_retain_cka"] == pytest.approx(1)
    assert itself.values["entanglement_retain_shift"] == pytest.approx(0)


def test_the_reference_attack_by_hand():
    reference = an_evaluation("base", forget=(0.0, 3.0), holdout=(3.5, 3.5))
    related = with_relations(an_evaluation(), reference=reference)  # forget 1, -1 against holdout -0.5, 0.5
    assert related.values["mia_reference"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert related.metrics["mia_reference"].values == {"forget": {0: 1.0, 1: -1.0}, "holdout": {0: -0.5, 1: 0.5}}


def test_relations_are_the_same_from_files(tmp_path):
    before = an_evaluation("before", features=([[1, 0], [2, 1]], [[0, 1], [3, -1], [1, 1]]))
    retrained = an_evaluation("retrained", forget=(2.5, 3.5), ratios=(2.0, 5.0, 6.0, 7.0))
    ours = an_evaluation(features=([[1, 1], [2, 0]], [[0, 3], [3, 1], [0, 1]]))
    read = {}
    for each in (ours, before, retrained):
        write_evaluation(tmp_path / f"{each.name}.json", each)
        read[each.name] = read_evaluation(tmp_path / f"{each.name}.json")
    others = {"retrained": retrained, "before": before, "reference": before}
    related = with_relations(ours, **others)
    from_files = with_relations(read["ours"], **{role: read[each.name] for role, each in others.items()})
    assert from_files.metrics == related.metrics


def test_what_a_suite_leaves_open_is_what_relations_need():
    rows = [row(0.5, perturbed=(text(0.25),)), row(0.5, perturbed=(text(0.125),))] * 2
    metrics: dict[str, Metric] = {}
    for name, compute in declared_plan({"forget": set_of(*rows), "holdout": set_of(*rows, name="holdout")}).items():
        metrics[name] = compute(metrics)
    assert metrics["forget_quality"].reason == metrics["privleak"].reason == "no results of a retrained model"
    assert metrics["mia_reference"].reason == "no results of a reference model"
    retrained = an_evaluation("retrained", forget=(1.0, 3.5))  # against holdout 3, 4: three pairs of four
    related = with_relations(replace(an_evaluation(), metrics=metrics), retrained=retrained)
    assert related.values["forget_quality"] == pytest.approx(2 / 70)  # 0.5 and 0.25, all below 1, 2, 3 and 3.5
    assert related.values["privleak"] == pytest.approx(100 * (0.5 - 0.25) / 0.25)


@pytest.mark.parametrize("role", NEEDS)
@pytest.mark.parametrize(
    ("change", "fact", "theirs", "ours"),
    [
        ({"suite": "muse"}, "suite", "muse", "tofu"),
        ({"split": None}, "split", "None", "forget10"),
        ({"sets": SETS | {"retain": SetFacts(4, "d" * 16)}}, "retain rows of fingerprint", "d" * 16, "b" * 16),
        (
            {"sets": {name: SETS[name] for name in ("forget", "retain")}},
            "holdout rows of fingerprint",
            "missing",
            "c" * 16,
        ),
        ({"sets": SETS | {"world_facts": SetFacts(4, "d" * 16)}}, "world_facts rows", "d" * 16, "missing"),
    ],
)
def test_results_of_other_rows_are_refused(role, change, fact, theirs, ours):
    with pytest.raises(DataError) as error:
        with_relations(an_evaluation(), **{role: replace(an_evaluation("other"), **change)})
    assert f"--{role} with {fact}" in error.value.got
    assert error.value.got.endswith(theirs)
    assert ours in error.value.expected


def test_results_of_the_same_rows_may_be_compared_whatever_else_differs():
    check_relations(an_evaluation(), retrained=replace(an_evaluation("other"), metrics={}, run={"seed": 1}))


def a_suite(answer="Aren", **options):
    return Suite("custom", "forget10", [RowSet("forget", [Row((Message("user", "Where?"),), answer)], **options)], dict)


@pytest.fixture
def planned(tokenizer):
    """planned(suite, name): what is known before a model is run."""

    def plan(suite, name, options=None, by=tokenizer):
        return plan_of(suite, options or ScoringOptions(), name, texts_of(suite.row_sets, by, False))

    return plan


def test_rows_and_settings_are_compared_before_a_model_is_run(planned):
    results = planned(a_suite(), "retrained")
    check_relations(planned(a_suite(), "ours"), retrained=results, before=results)
    for suite, options, fact in (
        (a_suite("Bryle"), None, f"forget rows of fingerprint {results.sets['forget'].fingerprint}"),
        (a_suite(max_length=64), None, "forget max_length 2048"),
        (a_suite(), ScoringOptions(feature_layer=-1), "feature_layer 0.5"),
    ):
        with pytest.raises(DataError) as error:
            check_relations(planned(suite, "ours", options), before=results)
        assert error.value.got == f"--before with {fact}"


PLAIN = "{% for m in messages %}{{ m.role + m.content }}<eos>{% endfor %}"
DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}" + PLAIN


def with_template(tokenizer, text):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = text
    return tokenizer


def on(day):
    return a_suite(template=Template(date=day))


def test_results_of_other_tokens_are_refused_and_what_differs_is_named(planned, tokenizer):
    dated, plain, other = (with_template(tokenizer, DATED), with_template(tokenizer, PLAIN), make_tokenizer())
    other = with_template(other, PLAIN)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    today = planned(on("2026-11-28"), "ours", by=dated)
    check_relations(today, before=planned(on("2026-11-28"), "before", by=dated))
    for ours, theirs, fact in (
        (today, planned(on("2026-11-29"), "before", by=dated), "template_date 2026-11-29"),
        (planned(a_suite(), "ours", by=plain), planned(a_suite(), "theirs", by=tokenizer), "chat template of digest"),
        (planned(a_suite(), "ours", by=plain), planned(a_suite(), "theirs", by=other), "tokens, which the tokenizer"),
    ):
        with pytest.raises(DataError) as error:
            check_relations(ours, before=theirs)
        assert fact in error.value.got
        check_relations(ours, reference=theirs)  # it may be of another family


def test_a_tokenizer_that_differs_in_what_makes_no_tokens_is_the_same(planned, tokenizer):
    ours, other = with_template(tokenizer, PLAIN), with_template(tokenizer, PLAIN)
    other.name_or_path, other.padding_side, other.model_max_length = "elsewhere", "left", 7
    check_relations(planned(a_suite(), "ours", by=ours), before=planned(on("2001-01-01"), "theirs", by=other))
    other.chat_template = PLAIN + "{% if tools %}tools{% endif %}"  # these rows have no tools
    check_relations(planned(a_suite(), "ours", by=ours), before=planned(a_suite(), "theirs", by=other))
