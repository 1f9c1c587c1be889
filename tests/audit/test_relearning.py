"""Relearning: the curve by hand, its beginning, whom it changes, and what is made of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_tiny_model
from fixtures_audit import (
    FORGET,
    QUICK,
    RETAIN,
    assert_same_weights,
    dataset,
    shut_at_its_output,
    target,
    taught,
    weights_of,
)
from fixtures_evaluation import with_adapter

from egup_trainer.audit.attack import Finding, sample_rows
from egup_trainer.audit.relearning import (
    relearning,
    relearning_curve,
    relearning_speed,
    steps_to_half,
    steps_to_reach,
)
from egup_trainer.audit.runs_of_seeds import interval_over_seeds
from egup_trainer.audit.subjects import related_and_unrelated
from egup_trainer.data.schema import Row
from egup_trainer.evaluation.metric import Metric, unavailable

KINDS = ("forget", "related", "unrelated")


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


def test_who_knows_nothing_starts_low_and_who_knows_starts_high(make_model, knowing, tokenizer):
    low = curve_of(make_model(), tokenizer, measured=FORGET[:4], steps=30)
    assert low[0][1] < 0.01
    assert low[-1][1] > 0.3
    assert curve_of(knowing, tokenizer)[0][1] > 0.9


def test_who_only_hides_its_rows_finds_held_back_ones_sooner(make_model, knowing, tokenizer):
    """A model pushed off its answers through its output layer alone, against one that never saw them."""
    models = (shut_at_its_output(knowing, tokenizer, FORGET), make_model())
    speeds = [relearning_speed(curve_of(model, tokenizer, steps=10, every=1)) for model in models]
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


def test_a_finding_tells_rows_held_back_from_rows_learned_again(make_model, tokenizer):
    found = relearning(target(make_model(), tokenizer))
    shown = sample_rows(4, len(FORGET), QUICK.seed)
    held_back = [row for number, row in enumerate(FORGET) if number not in shown]
    settings = {"learning_rate": 1e-3, "steps": 3}
    pools = zip(("related", "unrelated"), related_and_unrelated(FORGET, RETAIN, 4), strict=True)
    expected = {
        "forget": curve_of(make_model(), tokenizer, [FORGET[i] for i in shown], held_back, **settings),
        "relearned": curve_of(make_model(), tokenizer, *[[FORGET[i] for i in shown]] * 2, **settings),
        **{
            name: curve_of(
                make_model(), tokenizer, [RETAIN[pool[i]] for i in sample_rows(4, len(pool), 0)], held_back, **settings
            )
            for name, pool in pools
        },
    }
    assert found.curves.keys() == expected.keys()
    for name, curve in expected.items():
        assert [step for step, _ in found.curves[name]] == [0, 2, 3]
        assert [value for _, value in found.curves[name]] == pytest.approx([value for _, value in curve], rel=1e-5)
        assert found.metrics[f"{name}_speed"].value == relearning_speed(found.curves[name])
        assert found.metrics[f"{name}_end"].value == found.curves[name][-1][1]
    assert (found.metrics["forget_start"].num_samples, found.metrics["forget_start"].interval) == (4, None)
    assert found.bands == {}


def test_each_size_and_rate_has_runs_of_its_own_on_the_same_rows(make_model, tokenizer):
    options = replace(QUICK, relearn_sizes=[2, 4], relearn_learning_rates=[1e-3, 1e-2], relearn_seeds=2, seed=5)
    found = relearning(replace(target(make_model(), tokenizer), options=options))
    suffixes = ["", "_2_rows_at_0.01", "_4_rows_at_0.001", "_4_rows_at_0.01"]
    kinds = ["forget", "relearned", "related", "unrelated"]
    assert list(found.curves) == [f"{kind}{suffix}" for suffix in suffixes for kind in kinds]
    settings = {"steps": 3, "learning_rate": 1e-2}
    ends, starts = [], []
    for seed in (5, 6):
        order = np.random.default_rng(seed).permutation(8).tolist()
        shown, held_back = ([FORGET[i] for i in sorted(rows)] for rows in (order[:2], order[4:]))
        curve = curve_of(make_model(), tokenizer, shown, held_back, seed=seed, **settings)
        ends.append(curve[-1][1])
        starts.append(curve[0][1])
    metric = found.metrics["forget_2_rows_at_0.01_end"]
    assert metric.value == pytest.approx(sum(ends) / 2, rel=1e-5)
    assert metric.values == {"seeds": pytest.approx(dict(zip((5, 6), ends, strict=True)), rel=1e-5)}
    assert metric.interval == pytest.approx(interval_over_seeds(ends), rel=1e-4)
    for suffix in suffixes:
        assert found.curves[f"forget{suffix}"][0][1] == pytest.approx(sum(starts) / 2, rel=1e-5)
    assert found.bands["forget"][0] == pytest.approx((0, *interval_over_seeds(starts)), rel=1e-4)


def test_an_interval_over_seeds_is_students():
    mean, margin = 0.5, 4.302653 * 0.1 / 3**0.5  # t of two degrees of freedom, s = 0.1
    assert interval_over_seeds([0.4, 0.5, 0.6]) == pytest.approx((mean - margin, mean + margin), rel=1e-5)
    assert interval_over_seeds([0.1, 0.9]) == (0.0, 1.0)
    assert interval_over_seeds([0.5]) is interval_over_seeds([0.5, math.nan]) is None


def test_related_rows_share_rare_words_with_a_forget_row():
    forget = [Row((), "the fox of Aren eats figs"), Row((), "the owl of Bryle")]
    texts = ("the ships of steel", "the fox of Corvo", "the owl of Bryle eats", "the wheels of iron")
    retain = [Row((), text) for text in texts]
    related, unrelated = related_and_unrelated(forget, retain, count=2)
    assert (related, sorted(unrelated)) == ([2, 1], [0, 3])
    assert related_and_unrelated(forget, retain, count=50) == (related, unrelated)  # half of them at most
    assert related_and_unrelated(forget, retain[:1], count=1) == ([], [])
    assert [len(pool) for pool in related_and_unrelated(forget, retain * 10, count=4)] == [10, 10]


def test_a_single_retain_row_is_neither_related_nor_unrelated(make_model, tokenizer):
    found = relearning(target(make_model(), tokenizer, retain=RETAIN[:1]))
    assert found.curves.keys() == {"forget", "relearned"}
    assert found.metrics["related_end"].reason.startswith("two retain rows are needed")


def test_what_is_hidden_comes_back_even_from_retain_rows(make_model, tokenizer):
    """From rows that only share the answers' style, which a model that never saw the forget rows learns, too."""
    knowing = taught(tokenizer, [*FORGET, *RETAIN])
    options = replace(QUICK, relearn_steps=40, relearn_every=40)
    models = {"hiding": shut_at_its_output(knowing, tokenizer, FORGET), "never": taught(tokenizer, RETAIN)}
    found = {name: relearning(replace(target(each, tokenizer), options=options)) for name, each in models.items()}
    ends = {name: {kind: each.metrics[f"{kind}_end"].value for kind in KINDS} for name, each in found.items()}
    assert found["hiding"].metrics["forget_start"].value < 0.05
    for kind in KINDS:
        assert ends["hiding"][kind] > 2 * ends["never"][kind]


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


def reaching_half_at(*steps):
    """A curve for each seed, up to step 20, that reaches .45 at the given step."""
    return [[(step, 0.5 if half is not None and step >= half else 0.4) for step in range(0, 25, 5)] for half in steps]


def test_steps_to_half_are_the_mean_over_seeds_with_students_interval():
    found = steps_to_half(reaching_half_at(5, 10, 10), 0.9, first_seed=7, num_rows=3)
    mean, margin = 25 / 3, 4.302653 * (25 / 3) ** 0.5 / 3**0.5  # squares of distances: 100/9, 25/9, 25/9, over 2
    assert found.value == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - margin, mean + margin), rel=1e-5)
    assert (found.values, found.num_samples) == ({"seeds": {7: 5.0, 8: 10.0, 9: 10.0}}, 3)
    assert steps_to_half(reaching_half_at(0, 20), 0.9).interval == (0.0, 20.0)  # none can be later than the last step
    assert steps_to_half(reaching_half_at(15), 0.9) == Metric(15.0, values={"seeds": {0: 15.0}})


def test_steps_to_half_have_no_mean_if_a_seed_does_not_get_there():
    found = steps_to_half(reaching_half_at(5, None, 10), 0.9, first_seed=7)
    assert (found.value, found.interval) == (None, None)
    assert found.reason == "not reached in 20 steps by 1 of 3 seeds"
    assert found.values == {"seeds": {7: 5.0, 9: 10.0}}
    assert steps_to_half(reaching_half_at(None, None), 0.9) == unavailable("not reached in 20 steps")


def test_steps_to_half_are_counted_against_the_initial_model_or_the_relearned_rows(make_model, tokenizer):
    given = target(make_model(), tokenizer)
    known = Finding(curves={"forget": [(0, 0.0), (3, 0.0)], "related": [(0, 0.9), (2, 1.0)]})
    found = relearning(replace(given, before={"relearning": known})).metrics
    assert (found["forget_steps_to_half"].value, found["related_steps_to_half"].value) == (0.0, None)
    alone = relearning(given)
    half = alone.curves["relearned"][-1][1] / 2
    for kind in KINDS:
        expected = steps_to_reach(alone.curves[kind], half)
        assert alone.metrics[f"{kind}_steps_to_half"].value == expected


def test_steps_to_half_are_counted_for_each_seed(make_model, tokenizer):
    options = replace(QUICK, relearn_seeds=3, seed=5, relearn_steps=8, relearn_every=1, relearn_learning_rates=[1e-2])
    given = replace(target(make_model(), tokenizer), options=options)
    alone = relearning(given)
    values = [alone.metrics["forget_end"].values["seeds"][seed] for seed in (5, 6, 7)]
    known = Finding(curves={"forget": [(0, 2 * min(values))]})  # half of it is the last to be reached
    found = relearning(replace(given, before={"relearning": known})).metrics["forget_steps_to_half"]
    assert found.num_samples == 4
    assert list(found.values["seeds"]) == [5, 6, 7]
    assert found.values["seeds"][5 + values.index(min(values))] == max(found.values["seeds"].values())
    assert found.interval == interval_over_seeds([*found.values["seeds"].values()], most=8)
