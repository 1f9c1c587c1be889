"""A whole audit: which attacks, on what, beside whom; its file; and that it is the same twice."""

import json
import math
from dataclasses import replace

import pytest
from conftest import make_tiny_model
from fixtures_audit import (
    FORGET,
    HOLDOUT,
    QUICK,
    RETAIN,
    assert_same_weights,
    invented_audit,
    taught,
    weights_of,
)

from egup_trainer import Audit, audit_model
from egup_trainer.audit import ATTACKS, Attack, attacks_named
from egup_trainer.audit.attack import Finding, Target, sample_rows
from egup_trainer.audit.audit import check_same_audit
from egup_trainer.errors import ConfigError, DataError, TooFewPositionsError
from egup_trainer.evaluation.evaluation import SetFacts
from egup_trainer.evaluation.rows import RowSet

NO_JUDGE = "needs a model that judges texts (--judge_model)"


@pytest.fixture(scope="module")
def model(tokenizer):
    model = make_tiny_model(tokenizer)
    model.config.max_position_embeddings = 512
    return model


@pytest.fixture(scope="module")
def audits(model, tokenizer):
    """The weights before, and two audits of all attacks."""
    before = weights_of(model)
    options = {"options": QUICK, "name": "mine", "load_before": lambda: make_tiny_model(tokenizer, seed=1)}
    return before, [audit_model(model, tokenizer, FORGET, RETAIN, HOLDOUT, **options) for _ in "ab"]


def test_every_attack_is_run_and_the_model_stays(audits, model):
    before, (audit, _) = audits
    assert list(audit.findings) == list(ATTACKS)
    assert audit.findings["semantic"].reason == NO_JUDGE
    found = [finding for attack, finding in audit.findings.items() if attack != "semantic"]
    assert all(finding.reason is None and finding.metrics for finding in found)
    assert_same_weights(model, before)
    assert audit.sets == {
        "forget": SetFacts(8, RowSet("forget", FORGET).fingerprint),
        "retain": SetFacts(6, RowSet("retain", RETAIN).fingerprint),
        "holdout": SetFacts(6, RowSet("holdout", HOLDOUT).fingerprint),
    }


def test_the_same_seed_gives_the_same_file(audits):
    first, second = audits[1]
    assert first.to_json() == second.to_json()


def test_the_file_holds_no_text_of_a_row(audits):
    text = audits[1][0].to_json()
    for row in [*FORGET, *RETAIN, *HOLDOUT]:
        assert row.answer not in text
        assert row.prompt[0].content not in text
    assert "lives in" not in text


def test_a_file_is_read_back_as_it_was(audits, tmp_path):
    audit = replace(audits[1][0], run={"command": "egup audit"}, before=audits[1][1])
    audit.write(tmp_path / "below" / "audit.json")
    assert Audit.read(tmp_path / "below" / "audit.json") == audit
    document = json.loads((tmp_path / "below" / "audit.json").read_text())
    assert document["findings"]["worst_prompt"]["notes"][0].startswith("the worst prompt of ")
    assert (document["kind"], document["schema_version"]) == ("egup_trainer audit", 1)


def test_models_beside_it_are_kept_without_those_beside_them(model, tokenizer):
    attacks = ["relearning"]
    before = audit_model(taught(tokenizer, FORGET), tokenizer, FORGET, RETAIN, attacks=attacks, options=QUICK, name="b")
    retrained = audit_model(model, tokenizer, FORGET, RETAIN, attacks=attacks, options=QUICK, name="r", before=before)
    audit = audit_model(
        model, tokenizer, FORGET, RETAIN, attacks=attacks, options=QUICK, retrained=retrained, before=before
    )
    assert (audit.before, audit.retrained) == (before, retrained.alone())
    assert retrained.before == before
    reason = audit.findings["relearning"].metrics["forget_steps_to_half"].reason
    assert reason == "not reached in 3 steps"
    assert before.value("relearning", "forget_start") > 0.9
    assert audit.value("relearning", "forget_start") < 0.01


def test_attacks_say_what_they_need(model, tokenizer):
    options = replace(QUICK, relearn_steps=1, soft_prompt_steps=1, max_new_tokens=1, num_samples=1)
    found = audit_model(model, tokenizer, FORGET, RETAIN, options=options).findings
    lacking = {attack: finding for attack, finding in found.items() if finding.reason}
    holdout = Finding(reason="needs rows that no model saw (--holdout)")
    before = Finding(reason="needs the model before unlearning (--model_before)")
    of_others = {"merging": before, "depth": before, "semantic": Finding(reason=NO_JUDGE)}
    assert lacking == {"probe": holdout, "membership": holdout, **of_others}


@pytest.mark.parametrize(
    ("attacks", "retain", "got", "fix"),
    [
        (["probe", "relearning"], RETAIN, "the attack probe without --holdout", "set --holdout"),
        (["semantic"], RETAIN, "the attack semantic without --judge_model", "set --judge_model"),
        (["merging"], RETAIN, "the attack merging without --model_before", "set --model_before"),
        (["promts"], RETAIN, "the unknown attack promts", "did you mean prompts?"),
        ([], RETAIN, "no attack", "set --attacks"),
        (None, [], "no retain rows", "check the source"),
    ],
)
def test_what_cannot_be_is_refused(model, tokenizer, attacks, retain, got, fix):
    with pytest.raises((ConfigError, DataError)) as error:
        audit_model(model, tokenizer, FORGET, retain, attacks=attacks)
    assert (error.value.got, error.value.fix) == (got, fix)


def test_audits_of_other_rows_or_options_are_refused(model, tokenizer):
    other = invented_audit("other", 0.5)
    with pytest.raises(DataError) as error:
        audit_model(model, tokenizer, FORGET, RETAIN, retrained=other)
    assert error.value.got == "the retrained model's audit with forget rows of fingerprint 0123456789abcdef"
    check_same_audit(other, invented_audit("theirs", 0.1), "theirs")
    with pytest.raises(DataError) as error:
        check_same_audit(other, replace(other, settings={"seed": 1}), "b.json")
    assert (error.value.got, error.value.expected) == ("b.json with seed 1", "seed 0, that of other")


def test_attacks_stand_in_their_own_order_each_once():
    assert attacks_named(["probe", "prompts", "probe"]) == ["prompts", "probe"]


def test_rows_can_be_limited(model, tokenizer):
    options = replace(QUICK, max_rows=5)
    audit = audit_model(model, tokenizer, FORGET, RETAIN, HOLDOUT, attacks=["membership"], options=options)
    assert {name: facts.num_rows for name, facts in audit.sets.items()} == {"forget": 5, "retain": 5, "holdout": 5}
    kept = [FORGET[i] for i in sample_rows(5, len(FORGET), 0)]
    assert audit.sets["forget"].fingerprint == RowSet("forget", kept).fingerprint


def test_an_attack_that_fails_loses_nothing_of_the_others(model, tokenizer):
    """Such as one that finds the model before of other shapes, or no memory, hours after the first."""

    def load_another():
        return make_tiny_model(tokenizer, "gpt2")

    how = {"attacks": ["merging", "sampling"], "options": QUICK, "load_before": load_another}
    audit = audit_model(model, tokenizer, FORGET, RETAIN, **how)
    merging, sampling = audit.findings["merging"], audit.findings["sampling"]
    assert (merging.failed, sampling.failed) == (True, False)
    assert sampling.metrics
    assert merging.reason.startswith("failed: Got a model before unlearning without the weights model.")


def test_an_error_of_a_library_is_a_reason_of_one_line(model, tokenizer, monkeypatch):
    def fail(*args):
        raise MemoryError("no memory\nfor it")

    monkeypatch.setattr(Target, "generate", fail)
    audit = audit_model(model, tokenizer, FORGET, RETAIN, attacks=["sampling"], options=QUICK)
    assert audit.findings["sampling"].reason == "failed: MemoryError: no memory"


def test_points_of_a_curve_that_are_not_finite_are_left_out(model, tokenizer, monkeypatch, tmp_path):
    curve = [(0, 0.5), (1, math.nan), (2, 0.25)]
    monkeypatch.setattr(Attack, "run", lambda self, target: Finding(curves={"forget": curve}))
    audit = audit_model(model, tokenizer, FORGET, RETAIN, attacks=["relearning"], options=QUICK)
    audit.write(tmp_path / "audit.json")
    assert Audit.read(tmp_path / "audit.json").findings["relearning"].curves == {"forget": [(0, 0.5), (2, 0.25)]}


def test_rows_that_the_model_cannot_read_are_refused_before_the_first_attack(tokenizer, monkeypatch):
    short = make_tiny_model(tokenizer, "gpt2")
    short.config.n_positions = 8
    monkeypatch.setattr(Attack, "run", lambda self, target: pytest.fail("an attack"))
    with pytest.raises(TooFewPositionsError) as caught:
        audit_model(short, tokenizer, FORGET, RETAIN, options=QUICK)
    assert (caught.value.got.endswith("tokens of the forget set for a model of 8 positions"), caught.value.fix) == (
        True,
        "lower --max_length",
    )


def test_only_the_answer_is_scored(model, tokenizer):
    row = replace(FORGET[0], alternatives=("x",), paraphrase="y", perturbed=("z", "u"))
    target = Target(model, tokenizer, {"forget": [row]}, QUICK)
    (scores,) = target.score(target.row_set("forget"))["forget"].samples.values()
    assert (len(scores.answers), scores.paraphrase, scores.perturbed) == (1, None, ())
