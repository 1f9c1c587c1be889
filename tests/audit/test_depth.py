"""Depth: the score by hand, models between the one before and the retrained one, and what it cannot be measured on."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_tiny_model
from fixtures_audit import FORGET, RETAIN, assert_same_weights, dataset, target, taught, weights_of, wide_model
from fixtures_evaluation import with_adapter

from egup_trainer.audit.attack import NEEDS_BEFORE, NEEDS_RETRAINED, Finding
from egup_trainer.audit.depth import depth, depth_scores, layer_drops
from egup_trainer.audit.quantization import Bits, quantized_copy
from egup_trainer.data.tokenization import tokenize
from egup_trainer.modeling.forward import decoder_layers


@pytest.fixture(scope="module")
def before(tokenizer):
    return taught(tokenizer, [*FORGET, *RETAIN])


@pytest.fixture(scope="module")
def retrained(tokenizer):
    return taught(tokenizer, RETAIN)


@pytest.fixture(scope="module")
def found(before, retrained, tokenizer):
    """What the attack finds in the retrained model."""
    return attack(retrained, before, tokenizer)


def attack(model, before, tokenizer, retrained=None):
    known = {} if retrained is None else {"depth": retrained}
    return depth(replace(target(model, tokenizer), load_before=lambda: before, retrained=known))


def with_upper_layers(before, retrained, first: int):
    """The model before unlearning, with the layers from `first` on and the output layer of the retrained model."""
    mixed = copy.deepcopy(before)
    for index, layer in enumerate(decoder_layers(mixed)):
        if index >= first:
            layer.load_state_dict(decoder_layers(retrained)[index].state_dict())
    return mixed


@torch.no_grad()
def drop_by_hand(source, before, row, layer: int) -> float:
    """drop_l of one row, from whole logits and one sequence."""
    ids = torch.from_numpy(row.input_ids).long()[None]
    scored = torch.from_numpy(row.labels != -100).nonzero().flatten()
    scored = scored[scored > 0]

    def logps():
        return before(input_ids=ids).logits[0].log_softmax(-1)[scored - 1, ids[0, scored]]

    given = source(input_ids=ids, output_hidden_states=True).hidden_states
    states = given[layer + 1] if layer + 1 < len(given) - 1 else None

    def replaced(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, scored - 1] = states[0, scored - 1]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    own = logps()
    with decoder_layers(before)[layer].register_forward_hook(replaced):
        return float((own - logps()).mean())


def test_the_score_of_a_row_by_hand():
    drops = np.array([[0.0, 1.0, 9.0], [4.0, -1.0, 0.0], [1.0, 1.0, 1.0]])
    retrained = np.array([[1.0, 3.0, 0.04], [2.0, 2.0, 0.0], [0.05, -1.0, 0.0]])
    scores = depth_scores(drops, retrained)
    assert scores[:2] == pytest.approx([(1 * 0 + 3 / 3) / 4, (2 * 1 + 2 * 0) / 4])
    assert np.isnan(scores[2])  # no layer of the retrained model is above the threshold


@pytest.mark.parametrize("layer", [0, 1])
def test_drops_are_those_of_a_row_alone(before, retrained, tokenizer, layer):
    rows = dataset(FORGET[:3], tokenizer)
    drops = layer_drops(retrained, before, tokenizer, rows, batch_size=3)
    expected = [drop_by_hand(retrained, before, row, layer) for row in rows.rows]
    assert drops.shape == (3, 3)
    assert drops[:, layer].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_pieces_of_a_long_row_are_joined(before, retrained, tokenizer):
    whole = tokenize(FORGET[:1], tokenizer, name="rows")
    pieces = tokenize(FORGET[:1], tokenizer, name="rows", max_length=len(whole.rows[0]) - 4)
    assert len(pieces) == 2
    drops = layer_drops(retrained, before, tokenizer, pieces, batch_size=2)
    tokens = [int(row.is_scored[1:].sum()) for row in pieces.rows]
    parts = [drop_by_hand(retrained, before, row, 0) for row in pieces.rows]
    assert drops.shape == (1, 3)
    assert drops[0, 0] == pytest.approx(np.average(parts, weights=tokens), rel=1e-3)


def test_the_model_before_has_forgotten_nothing_and_the_retrained_model_all(before, retrained, found, tokenizer):
    assert found.metrics["score"].reason == NEEDS_RETRAINED
    assert found.metrics["drop"].value > 1
    assert found.metrics["drop"].interval[0] > 0
    assert [layer for layer, _ in found.curves["drop"]] == [0, 1, 2]
    none = attack(copy.deepcopy(before), before, tokenizer, found).metrics["score"]
    assert (none.value, none.num_samples) == (pytest.approx(0, abs=1e-4), len(FORGET))
    all_of_it = attack(retrained, before, tokenizer, found).metrics["score"]
    assert (all_of_it.value, all_of_it.higher_is_better) == (pytest.approx(1, abs=1e-4), True)
    assert all_of_it.interval == pytest.approx((1, 1), abs=1e-4)


def test_a_model_that_only_its_output_layer_silences_has_a_score_of_zero(before, found, tokenizer):
    hiding = copy.deepcopy(before)
    hiding.lm_head.weight.data.neg_()
    given = target(hiding, tokenizer)
    assert given.score(given.row_set("forget"))["forget"].samples[0].answers[0].probability < 1e-3
    assert attack(hiding, before, tokenizer, found).metrics["score"].value == pytest.approx(0, abs=1e-4)


def test_the_more_layers_are_retrained_the_deeper(before, retrained, found, tokenizer):
    scores = [
        attack(with_upper_layers(before, retrained, first), before, tokenizer, found).metrics["score"].value
        for first in (3, 2, 1)
    ]
    assert scores[0] == pytest.approx(0, abs=1e-4)
    assert scores[0] < scores[1] < scores[2] < 1


def test_no_model_is_changed(before, retrained, found, tokenizer):
    models = [retrained, before]
    weights = [weights_of(model) for model in models]
    hooks = [[len(module._forward_hooks) for module in model.modules()] for model in models]
    attack(retrained, before, tokenizer, found)
    for model, given in zip(models, weights, strict=True):
        assert_same_weights(model, given)
    assert hooks == [[len(module._forward_hooks) for module in model.modules()] for model in models]


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "qwen3"])
def test_other_architectures_can_be_patched(tokenizer, name):
    models = [make_tiny_model(tokenizer, name, seed).eval() for seed in (0, 1)]
    rows = dataset(FORGET[:2], tokenizer)
    assert np.abs(layer_drops(models[0], models[0], tokenizer, rows, 2)).max() < 1e-5
    drops = layer_drops(models[1], models[0], tokenizer, rows, 2)
    expected = [drop_by_hand(models[1], models[0], row, 1) for row in rows.rows]
    assert drops[:, 1].tolist() == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_adapters_are_patched_as_they_are(before, found, tokenizer):
    plain, changed = with_adapter(copy.deepcopy(before), std=0.0), with_adapter(copy.deepcopy(before))
    assert attack(plain, before, tokenizer, found).metrics["score"].value == pytest.approx(0, abs=1e-4)
    assert attack(changed, before, tokenizer, found).metrics["score"].value > 0.1


def test_four_bits_can_be_patched_into_four_bits(tokenizer):
    pytest.importorskip("bitsandbytes")
    whole = taught(tokenizer, FORGET, model=wide_model(tokenizer))
    few, rows = quantized_copy(whole, Bits.FOUR), dataset(FORGET[:3], tokenizer)
    assert np.abs(layer_drops(few, few, tokenizer, rows, 3)).max() < 1e-4
    fresh = layer_drops(quantized_copy(wide_model(tokenizer), Bits.FOUR), few, tokenizer, rows, 3)
    assert fresh.mean() > 1


def test_what_is_missing_is_a_reason(before, retrained, tokenizer):
    assert depth(target(retrained, tokenizer)) == Finding(reason=NEEDS_BEFORE)
    wide = wide_model(tokenizer)
    reason = "the model has 2 layers of width 64, and the model before unlearning 3 layers of width 32"
    assert attack(wide, before, tokenizer) == Finding(reason=reason)
    score = attack(before, before, tokenizer, Finding(reason=reason)).metrics["score"]
    assert (score.value, score.reason) == (None, f"the retrained model: {reason}")


def test_rows_that_the_retrained_model_knows_as_well_are_left_out(before, tokenizer):
    same = attack(before, before, tokenizer)
    score = attack(before, before, tokenizer, same).metrics["score"]
    assert score.value is None
    assert score.reason == "no layer of the retrained model lowers a row by more than 0.05 nats per token"
