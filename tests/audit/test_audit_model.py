"""A whole audit: which attacks, on what, beside whom; its file; and that it is the same twice."""

import json
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

from egup_trainer import Audit, AuditOptions, audit_model
from egup_trainer.audit.audit import Finding, check_same_audit
from egup_trainer.audit.options import Attack, attacks_named
from egup_trainer.audit.target import draw_rows
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.evaluation.evaluation import SetFacts
from egup_trainer.evaluation.rows import RowSet


@pytest.fixture(scope="module")
def model(tokenizer):
    model = make_tiny_model(tokenizer)
    model.config.max_position_embeddings = 512
    return model


@pytest.fixture(scope="module")
def audits(model, tokenizer):
    """The weights before, and two audits of all attacks."""
    before = weights_of(model)
    return before, [audit_model(model, tokenizer, FORGET, RETAIN, HOLDOUT, options=QUICK, name="mine") for _ in "ab"]


def test_every_attack_is_run_and_the_model_stays(audits, model):
    before, (audit, _) = audits
    assert list(audit.findings) == list(Attack)
    assert all(finding.reason is None and finding.metrics for finding in audit.findings.values())
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
    reason = audit.findings[Attack.RELEARNING].metrics["forget_steps_to_half"].reason
    assert reason == "not reached in 3 steps"
    assert before.value("relearning", "forget_start") > 0.9
    assert audit.value(Attack.RELEARNING, "forget_start") < 0.01


def test_without_holdout_rows_two_attacks_say_what_they_need(model, tokenizer):
    options = replace(QUICK, relearn_steps=1, max_new_tokens=1, num_samples=1)
    found = audit_model(model, tokenizer, FORGET, RETAIN, options=options).findings
    lacking = {attack: finding for attack, finding in found.items() if finding.reason}
    expected = Finding(reason="needs rows that no model saw (--holdout)")
    assert lacking == {Attack.PROBE: expected, Attack.MEMBERSHIP: expected}


def refused(model, tokenizer, *rows, **options) -> str:
    with pytest.raises((ConfigError, DataError)) as error:
        audit_model(model, tokenizer, *rows, **options)
    return str(error.value)


def test_what_cannot_be_is_refused_in_one_line(model, tokenizer):
    assert refused(model, tokenizer, FORGET, RETAIN, attacks=["probe", "relearning"]) == (
        "Got the attack probe without holdout rows, but expected rows of the forget set's kind that no model saw. "
        "Set --holdout."
    )
    assert refused(model, tokenizer, FORGET, RETAIN, attacks=["promts"]) == (
        "Got the unknown attack promts, but expected attacks among relearning, quantization, prompts, sampling, probe, "
        "membership. Did you mean prompts?"
    )
    assert refused(model, tokenizer, FORGET, RETAIN, attacks=[]) == (
        "Got no attack, but expected some of relearning, quantization, prompts, sampling, probe, membership. Set "
        "--attacks."
    )
    assert refused(model, tokenizer, FORGET, []) == "Got no retain rows, but expected at least one. Check the source."
    other = invented_audit("other", 0.5)
    ours = RowSet("forget", FORGET).fingerprint
    assert refused(model, tokenizer, FORGET, RETAIN, retrained=other) == (
        "Got the retrained model's audit with forget rows of fingerprint 0123456789abcdef, but expected forget rows of "
        f"fingerprint {ours}, that of model. Audit both models with the same rows and options."
    )


def test_other_options_are_other_audits():
    audit = invented_audit("mine", 0.5)
    check_same_audit(audit, invented_audit("theirs", 0.1), "theirs")
    with pytest.raises(DataError) as error:
        check_same_audit(audit, replace(audit, settings={"seed": 1}), "b.json")
    assert str(error.value) == (
        "Got b.json with seed 1, but expected seed 0, that of mine. Audit both models with the same rows and options."
    )


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("relearn_steps", 0, "a whole number of at least 1"),
        ("relearn_every", 1.5, "a whole number of at least 1"),
        ("relearn_share", 0, "a number above 0 and at most 1"),
        ("relearn_learning_rate", -1.0, "a number above 0"),
        ("num_samples", 0, "a whole number of at least 1"),
        ("seed", -1, "a whole number of at least 0"),
    ],
)
def test_options_out_of_range_are_refused(option, value, expected):
    with pytest.raises(ConfigError) as error:
        AuditOptions(**{option: value})
    assert (error.value.got, error.value.expected) == (f"{option}={value}", expected)


def test_attacks_stand_in_their_own_order_each_once():
    assert attacks_named(["probe", "prompts", "probe"]) == (Attack.PROMPTS, Attack.PROBE)


def test_rows_can_be_limited(model, tokenizer):
    options = replace(QUICK, max_rows=5)
    audit = audit_model(model, tokenizer, FORGET, RETAIN, HOLDOUT, attacks=["membership"], options=options)
    assert {name: facts.num_rows for name, facts in audit.sets.items()} == {"forget": 5, "retain": 5, "holdout": 5}
    kept = [FORGET[i] for i in draw_rows(5, len(FORGET), 0)]
    assert audit.sets["forget"].fingerprint == RowSet("forget", kept).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no readable file at {path}, but expected results as `egup audit` writes them. Check the path."),
        (
            "{",
            "{path}, which is no whole JSON file, but expected results as `egup audit` writes them. Audit the model "
            "again.",
        ),
        (
            '{"kind": "x"}',
            "{path}, which holds something else, but expected results as `egup audit` writes them. Name such a file.",
        ),
        (
            '{"kind": "egup_trainer audit", "schema_version": 9}',
            "{path} of schema version 9, but expected version 1. Audit the model again with this version of "
            "egup_trainer.",
        ),
        (
            '{"kind": "egup_trainer audit", "schema_version": 1}',
            "{path}, whose contents do not fit the format (KeyError), but expected results as `egup audit` writes "
            "them, "
            "version 1. Audit the model again.",
        ),
    ],
)
def test_files_that_are_no_audits_are_refused(text, message, tmp_path):
    path = tmp_path / "audit.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as error:
        Audit.read(path)
    assert str(error.value) == "Got " + message.replace("{path}", str(path))
