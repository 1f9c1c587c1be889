"""Relearning: the curve by hand, its beginning, whom it changes, and what is made of it."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import make_tiny_model
from fixtures_audit import FORGET, QUICK, RETAIN, assert_same_weights, dataset, target, taught, weights_of
from fixtures_evaluation import with_adapter

from egup_trainer.audit.attack import Finding, sample_rows
from egup_trainer.audit.relearning import (
    relearning,
    relearning_curve,
    relearning_speed,
    steps_to_half,
    steps_to_reach,
)
from egup_trainer.data.collator import RowCollator
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows


def curve_of(model, tokenizer, train=FORGET[:4], measured=FORGET[4:], **changes):
    settings = {"steps": 6, "learning_rate": 1e-2, "batch_size": 4, "seed": 0, "every": 2} | changes
    return relearning_curve(model, tokenizer, dataset(train, tokenizer), dataset(measured, tokenizer), **settings)


def probability(model, tokenizer, rows):
    """mean exp(-l_i) from whole logits, row by row."""
    values = []
    for row in dataset(rows, tokenizer).rows:
        ids, labels = torch.from_numpy(row.input_ids).long()[None], torch.from_numpy(row.labels).long()[None]
        with torch.no_grad():
            values.append(math.exp(-model(input_ids=ids, labels=labels).loss.item()))
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def knowing(tokenizer):
    return taught(tokenizer, FORGET)


def test_the_curve_is_that_of_plain_adamw_steps(make_model, tokenizer):
    """With all rows in each step their order does not matter, and the whole run can be written by hand."""
    found = curve_of(make_model(), tokenizer, steps=3, every=2)
    model = make_model().eval()
    expected = [(0, probability(model, tokenizer, FORGET[4:]))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in (1, 2, 3):
        losses = []
        for row in dataset(FORGET[:4], tokenizer).rows:
            ids, labels = torch.from_numpy(row.input_ids).long()[None], torch.from_numpy(row.labels).long()[None]
            losses.append(model(input_ids=ids, labels=labels).loss)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        if step != 1:
            expected.append((step, probability(model, tokenizer, FORGET[4:])))
    assert [step for step, _ in found] == [0, 2, 3]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-4)


def test_the_curve_begins_where_score_rows_is(knowing, tokenizer):
    rows = dataset(FORGET[4:], tokenizer)
    scores = score_rows(knowing, AnswerReader(knowing), rows, RowCollator(tokenizer), batch_size=4)
    assert curve_of(knowing, tokenizer)[0] == (0, scores.probability)


def test_who_knows_nothing_starts_low_and_who_knows_starts_high(make_model, knowing, tokenizer):
    low = curve_of(make_model(), tokenizer, measured=FORGET[:4], steps=30)
    assert low[0][1] < 0.01
    assert low[-1][1] > 0.3
    assert curve_of(knowing, tokenizer)[0][1] > 0.9


def test_who_only_hides_its_rows_finds_held_back_ones_sooner(make_model, knowing, tokenizer):
    """A model pushed off its answers through its output layer alone, against one that never saw them."""
    import copy

    hiding = copy.deepcopy(knowing)
    optimizer = torch.optim.AdamW(hiding.lm_head.parameters(), lr=1e-2)
    while probability(hiding, tokenizer, FORGET) > 0.02:
        batch = RowCollator(tokenizer).pad(dataset(FORGET, tokenizer).rows)
        optimizer.zero_grad()
        (-hiding(**batch).loss).backward()
        optimizer.step()
    speeds = [relearning_speed(curve_of(model, tokenizer, steps=10, every=1)) for model in (hiding, make_model())]
    assert speeds[0] > 2 * speeds[1]


def test_the_given_model_is_not_changed(knowing, tokenizer):
    before, mode = weights_of(knowing), knowing.training
    random = torch.get_rng_state()
    curve_of(knowing, tokenizer)
    assert_same_weights(knowing, before)
    assert (knowing.training, torch.equal(torch.get_rng_state(), random)) == (mode, True)
    assert all(weight.grad is None or not weight.grad.any() for weight in knowing.parameters())


def test_an_adapter_is_merged_and_stays(tokenizer):
    model = with_adapter(make_tiny_model(tokenizer))
    before = weights_of(model)
    found = curve_of(model, tokenizer)
    assert found[0][1] == pytest.approx(probability(model, tokenizer, FORGET[4:]), rel=1e-4)
    assert_same_weights(model, before)
    assert model.peft_config.keys() == {"default"}


def test_the_same_seed_gives_the_same_curve_and_another_one_another(make_model, tokenizer):
    curves = [curve_of(make_model(), tokenizer, batch_size=2, seed=seed) for seed in (3, 3, 4)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_dropout_is_off(tokenizer):
    model = make_tiny_model(tokenizer, "gpt2").train()
    assert curve_of(model, tokenizer) == curve_of(model, tokenizer)
    assert model.training


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([(0, 0.2), (5, 0.2)], 0.2),
        ([(0, 0.0), (10, 1.0)], 0.5),
        ([(0, 0.0), (2, 0.5), (3, 0.5)], (0.5 + 0.5) / 3),
    ],
)
def test_speed_is_the_area_over_the_length(curve, expected):
    assert relearning_speed(curve) == pytest.approx(expected)


def test_steps_to_reach_counts_measured_steps():
    assert steps_to_reach([(0, 0.1), (2, 0.4), (4, 0.6)], 0.5) == 4
    assert steps_to_reach([(0, 0.5)], 0.5) == 0
    assert steps_to_reach([(0, 0.1), (2, 0.4)], 0.5) is None


def test_a_finding_tells_rows_held_back_from_rows_learned_again(make_model, tokenizer):
    found = relearning(target(make_model(), tokenizer))
    shown = sample_rows(4, len(FORGET), QUICK.seed)
    held_back = [row for number, row in enumerate(FORGET) if number not in shown]
    settings = {"learning_rate": 1e-3, "steps": 3}
    expected = {
        "forget": curve_of(make_model(), tokenizer, [FORGET[i] for i in shown], held_back, **settings),
        "relearned": curve_of(make_model(), tokenizer, *[[FORGET[i] for i in shown]] * 2, **settings),
        "retain": curve_of(make_model(), tokenizer, RETAIN, held_back, **settings),
    }
    assert found.curves.keys() == expected.keys()
    for name, curve in expected.items():
        assert [step for step, _ in found.curves[name]] == [0, 2, 3]
        assert [value for _, value in found.curves[name]] == pytest.approx([value for _, value in curve], rel=1e-5)
        assert found.metrics[f"{name}_speed"].value == relearning_speed(found.curves[name])
        assert found.metrics[f"{name}_end"].value == found.curves[name][-1][1]
    assert found.metrics["forget_start"].num_samples == 4


def test_too_few_rows_are_a_reason(make_model, tokenizer):
    found = relearning(target(make_model(), tokenizer, forget=FORGET[:4]))
    assert found == Finding(reason="4 forget rows: 4 to learn and one to hold back are needed")


def test_a_run_that_went_wrong_has_a_curve_and_no_value(make_model, tokenizer):
    model = make_model()
    model.lm_head.weight.data.fill_(math.nan)
    found = relearning(target(model, tokenizer))
    assert math.isnan(found.curves["forget"][0][1])
    assert (found.metrics["forget_end"].value, found.metrics["forget_end"].reason) == (
        None,
        "no row has a finite number",
    )


def test_steps_to_half_are_counted_against_the_initial_model(make_model, tokenizer):
    slow, before = [(0, 0.1), (2, 0.3), (4, 0.5)], [(0, 0.9), (2, 1.0)]
    assert steps_to_half(slow, before).value == 4.0
    assert steps_to_half([(0, 0.1), (4, 0.2)], before).reason == "not reached in 4 steps"
    assert "--model_before" in steps_to_half(slow, None).reason
    given = target(make_model(), tokenizer)
    known = Finding(curves={"forget": [(0, 0.0), (3, 0.0)], "retain": before})
    found = relearning(replace(given, before={"relearning": known})).metrics
    assert (found["forget_steps_to_half"].value, found["retain_steps_to_half"].value) == (0.0, None)
