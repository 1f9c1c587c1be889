"""Which attack got furthest: beside the retrained model, else beside the model before, and what does not take part."""

from dataclasses import replace

import pytest
from fixtures_audit import invented_audit

from egup_trainer.audit import ATTACKS
from egup_trainer.audit.attack import Finding
from egup_trainer.audit.quantization import Bits
from egup_trainer.audit.worst import BroughtBack, brought_back, worst_attack
from egup_trainer.evaluation.metric import Metric, unavailable

NUMBERS = {
    "relearning": {"forget_end": 0.3, "forget_4_rows_at_0.001_end": 0.5, "forget_speed": 0.99, "relearned_end": 1.0},
    "quantization": {"given_forget_probability": 0.1, "4bit_forget_probability": 0.2, "4bit_retain_probability": 1.0},
    "sampling": {"best_rouge": 0.6, "mean_rouge": 0.9},
    "membership": {"loss": 1.0},
}


def audit(numbers=None, **beside):
    findings = {
        attack: Finding({name: Metric(value, interval=(value - 0.1, value + 0.1)) for name, value in found.items()})
        for attack, found in (NUMBERS if numbers is None else numbers).items()
    }
    return replace(invented_audit("mine", 0.5, **beside), findings=findings)


def changed(attack, **values):
    return {**NUMBERS, attack: {**NUMBERS[attack], **values}}


def test_furthest_above_the_retrained_model_is_the_worst():
    retrained = audit(
        {
            "relearning": {"forget_end": 0.0, "forget_4_rows_at_0.001_end": 0.25},
            "quantization": {"4bit_forget_probability": 0.0},
            "sampling": {"best_rouge": 0.5},
        }
    )
    found = brought_back(audit(retrained=retrained, before=audit()))
    assert [(each.attack, each.number) for each in found] == [
        ("relearning", "forget_end"),  # 0.3 above, and not that which is the highest
        ("quantization", "4bit_forget_probability"),
        ("sampling", "best_rouge"),
    ]
    assert [each.distance for each in found] == pytest.approx([0.3, 0.2, 0.1])
    worst = worst_attack(audit(retrained=retrained, before=audit()))
    assert worst == BroughtBack("relearning", "forget_end", Metric(0.3, interval=(0.3 - 0.1, 0.4)), retrained=0.0)


def test_without_a_retrained_model_the_share_of_the_model_before_counts():
    before = audit(
        {
            "relearning": {"forget_end": 1.0, "forget_4_rows_at_0.001_end": 1.0},
            "quantization": {"4bit_forget_probability": 0.25},
            "sampling": {"best_rouge": 1.0},
        }
    )
    found = brought_back(audit(before=before))
    assert [(each.number, each.distance, each.before) for each in found] == [
        ("4bit_forget_probability", pytest.approx(0.8), 0.25),
        ("best_rouge", pytest.approx(0.6), 1.0),
        ("forget_4_rows_at_0.001_end", pytest.approx(0.5), 1.0),
    ]


def test_with_nothing_to_compare_there_is_no_worst_attack():
    found = brought_back(audit())
    assert [(each.number, each.distance) for each in found] == [
        ("forget_4_rows_at_0.001_end", None),
        ("4bit_forget_probability", None),
        ("best_rouge", None),
    ]
    assert worst_attack(audit()) is worst_attack(audit(before=audit({"sampling": {"best_rouge": 0.0}}))) is None


def test_numbers_that_the_other_model_lacks_come_last_and_are_never_compared_with_a_third_model():
    retrained = audit({"sampling": {"best_rouge": 0.5}})
    found = brought_back(audit(retrained=retrained, before=audit()))
    assert [(each.attack, each.distance is None) for each in found] == [
        ("sampling", False),
        ("relearning", True),
        ("quantization", True),
    ]
    assert found[1].before is None


def test_a_number_without_a_value_takes_no_part():
    one = audit(retrained=audit())
    found = replace(one, findings={**one.findings, "sampling": Finding({"best_rouge": unavailable("no words")})})
    assert "sampling" not in [each.attack for each in brought_back(found)]


@pytest.mark.parametrize("bits", Bits)
def test_weights_as_given_bring_nothing_back_and_all_others_are_declared(bits):
    declared = ATTACKS["quantization"].sentence_of(f"{bits.value}_forget_probability")
    assert (declared is None) is (bits is Bits.GIVEN)


def test_areas_under_curves_bring_nothing_back():
    assert not ATTACKS["membership"].brings_back
    assert not ATTACKS["probe"].brings_back
