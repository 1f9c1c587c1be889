"""Soft prompts: what they open and what they cannot, a step by hand, and that nothing but the vectors changes."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_tiny_model
from fixtures_audit import (
    FORGET,
    MANY,
    QUICK,
    assert_same_weights,
    hiding,
    never_taught,
    target,
    weights_of,
    wide_model,
)
from fixtures_evaluation import with_adapter

from egup_trainer.audit.attack import NEEDS_RETRAINED, Finding, given_and_held_back
from egup_trainer.audit.held_back import over_holdout
from egup_trainer.audit.quantization import Bits, quantized_copy
from egup_trainer.audit.soft_prompts import NUM_VECTORS, RATE, SoftPrompt, soft_prompts
from egup_trainer.data.schema import Row

OPTIONS = replace(QUICK, soft_prompt_steps=20, relearn_sizes=[6])


def attack(model, tokenizer, retrained=None, forget=MANY, options=OPTIONS):
    known = {} if retrained is None else {"soft_prompts": retrained}
    return soft_prompts(replace(target(model, tokenizer, forget=forget), options=options, retrained=known))


def prompt_on(model, tokenizer, rows):
    given = target(model, tokenizer)
    dataset = given.tokenized(rows, "rows")
    return SoftPrompt(given, dataset), dataset


@pytest.fixture(scope="module")
def retrained(tokenizer):
    return attack(never_taught(tokenizer), tokenizer)


def test_it_opens_what_is_hidden_behind_a_prompt_and_nothing_that_is_not_there(retrained, tokenizer):
    found = attack(hiding(tokenizer), tokenizer, retrained).metrics
    assert found["plain"].value < 0.02
    assert found["attacked"].value > 0.4
    assert found["excess"].interval[0] > 0.3
    assert found["excess_over_holdout"].interval[0] > 0.3
    assert retrained.metrics["attacked"].value < 0.2
    assert retrained.metrics["gain"].interval[1] < 0.2
    assert (retrained.metrics["excess"].value, retrained.metrics["excess"].reason) == (None, NEEDS_RETRAINED)


def test_rows_that_are_held_back_are_measured_row_by_row(retrained):
    given, held_back = given_and_held_back(OPTIONS, len(MANY))
    assert (len(given), sorted(given + held_back)) == (6, list(range(len(MANY))))
    metrics, curves = retrained.metrics, retrained.curves
    assert [*metrics["attacked"].values["forget"]] == held_back
    assert [step for step, _ in curves["forget"]] == list(range(0, 21, 2))
    assert set(curves) == {"given", "forget", "holdout"}
    assert curves["forget"][-1][1] == pytest.approx(metrics["attacked"].value)
    assert curves["given"][-1][1] == pytest.approx(metrics["given"].value)
    assert metrics["gain"].value == pytest.approx(metrics["attacked"].value - metrics["plain"].value)


def test_the_first_step_is_that_of_adam(make_model, tokenizer):
    """Adam's first step is the learning rate times the sign of the gradient; before it, the vectors are "!"."""
    model = make_model().eval()
    prompt, rows = prompt_on(model, tokenizer, FORGET[:3])
    embedding = model.get_input_embeddings().weight
    tokens = torch.from_numpy(np.concatenate([row.input_ids for row in rows.rows])).long()
    vectors = embedding[tokenizer.encode("!")].detach().repeat(NUM_VECTORS, 1).requires_grad_(True)
    losses = []
    for row in rows.rows:
        ids, labels = torch.from_numpy(row.input_ids).long(), torch.from_numpy(row.labels).long()
        inputs = torch.cat([vectors, embedding[ids]])[None]
        labels = torch.cat([torch.full((NUM_VECTORS,), -100), labels])[None]
        losses.append(model(inputs_embeds=inputs, labels=labels).loss)
    expected = [math.exp(-loss.item()) for loss in losses]
    assert prompt.measure({"x": rows})["x"].tolist() == pytest.approx(expected, rel=1e-4)
    gradient = torch.autograd.grad(torch.stack(losses).mean(), vectors)[0]
    assert next(prompt.train(1)) == 1
    rate = RATE * float(embedding[tokens].detach().square().mean().sqrt())
    torch.testing.assert_close(prompt.vectors.detach(), -rate * gradient.sign(), rtol=1e-2, atol=1e-2 * rate)
    assert prompt.vectors.dtype == torch.float32


def test_a_text_without_a_question_is_scored_on_the_same_tokens(make_model, tokenizer):
    prompt, rows = prompt_on(make_model(), tokenizer, [Row((), FORGET[0].answer)])
    placed = prompt._with_places(rows).rows[0]
    assert placed.is_scored[1:].sum() == rows.rows[0].is_scored[1:].sum()


def test_a_token_that_begins_every_text_stays_first(make_model, tokenizer):
    begun = copy.deepcopy(tokenizer)
    begun.bos_token = "Ada"
    prompt, rows = prompt_on(make_model(), begun, FORGET[:1])
    row = replace(rows.rows[0], input_ids=np.append(np.int32(begun.bos_token_id), rows.rows[0].input_ids[1:]))
    placed = prompt._with_place(row)
    assert placed.input_ids[0] == begun.bos_token_id
    assert len(set(placed.input_ids[1 : 1 + NUM_VECTORS])) == 1
    assert placed.input_ids[1 + NUM_VECTORS :].tolist() == row.input_ids[1:].tolist()


def test_only_the_vectors_change(tokenizer):
    model = make_tiny_model(tokenizer).train()
    model.config.max_position_embeddings = 512
    frozen = next(model.parameters()).requires_grad_(False)
    before, random = weights_of(model), torch.get_rng_state()
    first, second = (attack(model, tokenizer, options=QUICK) for _ in "ab")
    assert first == second
    assert_same_weights(model, before)
    assert (model.training, torch.equal(torch.get_rng_state(), random)) == (True, True)
    assert [weight is not frozen for weight in model.parameters()] == [w.requires_grad for w in model.parameters()]
    assert all(weight.grad is None for weight in model.parameters())


def test_half_precision_leaves_the_vectors_in_float32(tokenizer):
    model = make_tiny_model(tokenizer).bfloat16()
    prompt, rows = prompt_on(model, tokenizer, FORGET[:2])
    assert list(prompt.train(2)) == [1, 2]
    assert prompt.vectors.dtype == torch.float32
    assert prompt.vectors.detach().ne(0).float().mean() > 0.9
    assert np.isfinite(prompt.measure({"x": rows})["x"]).all()


@pytest.mark.parametrize("kind", ["adapter", "4bit"])
def test_adapters_and_four_bits_can_be_attacked(tokenizer, kind):
    if kind == "4bit":
        pytest.importorskip("bitsandbytes")
        model = quantized_copy(wide_model(tokenizer), Bits.FOUR)
    else:
        model = with_adapter(make_tiny_model(tokenizer))
    prompt, rows = prompt_on(model, tokenizer, FORGET[:4])
    start = prompt.measure({"x": rows})["x"].mean()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for _ in prompt.train(10):
        pass
    assert prompt.measure({"x": rows})["x"].mean() > start
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_what_it_cannot_be_run_on(make_model, tokenizer):
    found = attack(make_model(), tokenizer, forget=FORGET[:4])
    assert found == Finding(reason="4 forget rows: 4 to learn and one to hold back are needed")
    model = make_model()
    model.config.max_position_embeddings = 40
    assert "a text with a soft prompt for a model of 40 positions" in attack(model, tokenizer, forget=FORGET).reason


def test_the_difference_to_holdout_rows_by_hand():
    found = over_holdout({1: 0.5, 2: 0.9, 3: math.nan}, {0: 0.1, 1: 0.3})
    assert (found.value, found.num_samples, found.num_skipped) == (pytest.approx(0.5), 4, 1)
    assert found.interval == pytest.approx((0.2, 0.8))
    assert over_holdout({}, {0: 0.1}).reason == "no forget row has a finite number"
    assert over_holdout({0: 0.1}, None).reason == "needs rows that no model saw (--holdout)"
