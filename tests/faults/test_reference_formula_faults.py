"""Faults of the field's reference code in losses and metrics (4, 5 and 7 of the list), each beside ours."""

from math import ceil, inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures_scores import row, set_of
from torch.nn.functional import kl_div, pad
from transformers import TrainerCallback

from egup_trainer.evaluation.metric import Metric, auc_metric
from egup_trainer.evaluation.metric_registry import Measured
from egup_trainer.evaluation.metrics.forget_quality import forget_quality
from egup_trainer.evaluation.metrics.membership_inference import privleak
from egup_trainer.evaluation.metrics.model_utility import model_utility
from egup_trainer.evaluation.metrics.probability import probability
from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.retain_losses import RetainKL
from egup_trainer.losses.rmu import RMU
from egup_trainer.losses.undial import UNDIAL
from egup_trainer.modeling.batches import iter_indices
from egup_trainer.modeling.forward import answer_positions
from egup_trainer.modeling.outputs import AnswerOutputs

VOCAB, STRENGTH = 120, 10.0


# 4. KL and UNDIAL over prompt and padding, and a label that indexes the vocabulary


@pytest.fixture
def spoken():
    """spoken(padding=0): labels (2, 6 + padding) of rows with 3 and 1 answer tokens, logits, logits before."""

    def make(padding=0):
        labels = torch.tensor([[-100, -100, -100, 7, 3, 5], [-100, -100, 9, -100, -100, -100]])
        generator = torch.Generator().manual_seed(0)
        now, before = (torch.randn(2, 6, VOCAB, generator=generator) for _ in range(2))
        filler = torch.randn(2, padding, VOCAB, generator=generator)  # what a model says there is anything
        now, before = torch.cat([now, filler], dim=1), torch.cat([before, -filler], dim=1)
        return pad(labels, (0, padding), value=-100), now.requires_grad_(), before

    return make


def read(logits, labels):
    """What a loss of ours gets to see of logits (B, T, V)."""
    positions, rows, tokens = answer_positions(labels)
    logits = logits.flatten(0, 1)[positions]  # (N, V)
    logps = logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    return AnswerOutputs(logps, rows, torch.tensor([3.0, 1.0]), None, logits, tokens)


def kl_everywhere(labels, now, before):
    """Mean of the divergence over all positions."""
    return kl_div(now.log_softmax(-1), before.log_softmax(-1), reduction="none", log_target=True).sum(-1).mean()


def kl_of_ours(labels, now, before):
    out = read(now, labels)
    return RetainKL()(out, ReferenceOutputs(logits=read(before, labels).logits)).sum() / out.num_tokens.sum()


def adjusted_everywhere(labels, before):
    """UNDIAL's targets (B, T - 1, V) from labels as they are, of which -100 is the 100th entry from the end."""
    mask = torch.zeros(len(labels), labels.shape[1] - 1, VOCAB)
    places = torch.arange(len(labels))[:, None], torch.arange(labels.shape[1] - 1)[None, :]
    mask[(*places, labels[:, 1:])] = 1.0
    return (before[:, :-1] - STRENGTH * mask).softmax(-1)


def undial_everywhere(labels, now, before):
    target = adjusted_everywhere(labels, before)
    return -(target * now[:, :-1].log_softmax(-1)).sum(-1).mean()


def undial_of_ours(labels, now, before):
    return UNDIAL(STRENGTH)(read(now, labels), ReferenceOutputs(logits=read(before, labels).logits)).mean()


@pytest.mark.parametrize(("faulty", "ours"), [(kl_everywhere, kl_of_ours), (undial_everywhere, undial_of_ours)])
def test_4_prompt_and_padding_do_not_count(spoken, faulty, ours):
    assert faulty(*spoken(padding=9)).item() > 1.05 * faulty(*spoken()).item()
    assert ours(*spoken(padding=9)).item() == pytest.approx(ours(*spoken()).item(), rel=1e-6)
    answers = {(0, 2), (0, 3), (0, 4), (1, 1)}  # the places whose logits predict an answer token
    for loss, only_answers in ((faulty, False), (ours, True)):
        labels, now, before = spoken()
        loss(labels, now, before).backward()
        pulled = set(map(tuple, now.grad.norm(dim=-1).nonzero().tolist()))
        assert (pulled == answers) == only_answers
        assert answers <= pulled


def test_4_no_ignored_label_lowers_a_token_of_the_vocabulary(spoken):
    labels, now, before = spoken()
    as_it_was, target = before[0, 0].softmax(-1), adjusted_everywhere(labels, before)[0, 0]
    assert target[VOCAB - 100] < 1e-3 * as_it_was[VOCAB - 100]  # a token that stands nowhere in the rows
    expected = torch.stack([before[0, 2], before[0, 3], before[0, 4], before[1, 1]])
    expected[range(4), [7, 3, 5, 9]] -= STRENGTH
    losses = -(expected.softmax(-1) * read(now, labels).logits.log_softmax(-1)).sum(-1)
    assert undial_of_ours(labels, now, before).item() == pytest.approx((losses[:3].mean() + losses[3]).item() / 2)


# 5. RMU's normalisation, [b] against [b, 1]


def rmu_broadcast(states, target, mask):
    """Mean over a batch of |h - target|^2 / d, each row by its own number of tokens, or so it was meant."""
    sums = ((states - target).square() * mask[..., None]).mean(dim=2).sum(dim=1)  # (b,)
    return (sums / mask.sum(dim=-1, keepdim=True)).mean()  # (b, b)


def rmu_of_ours(loss, states, mask):
    rows = mask.nonzero()[:, 0]
    out = AnswerOutputs(torch.zeros(len(rows)), rows, mask.sum(dim=1), hidden=states[mask.bool()])
    return loss(out, ReferenceOutputs())


def test_5_each_row_is_divided_by_its_own_tokens():
    loss = RMU(steering=2.0)
    target = 2.0 * loss.direction(4)
    states = target + torch.tensor([1.0, 3.0])[:, None, None].expand(2, 5, 4)  # |h - c u|^2 / d is 1 and 9
    mask = torch.tensor([[1.0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert rmu_of_ours(loss, states, mask).tolist() == pytest.approx([1, 9], rel=1e-5)
    # Sums of 1 and 45, each by both numbers of tokens: (1 + 45) (1 + 1/5) / 4 where (1 + 9) / 2 is meant.
    assert float(rmu_broadcast(states, target, mask)) == pytest.approx(46 * 1.2 / 4, rel=1e-5)
    for place in range(2):  # of one row both say the same
        alone = slice(place, place + 1)
        expected = rmu_of_ours(loss, states[alone], mask[alone]).tolist()
        assert [float(rmu_broadcast(states[alone], target, mask[alone]))] == pytest.approx(expected, rel=1e-5)


class Held(TrainerCallback):
    """Counts the numbers in gradients, right before the optimizer's first step."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.count = sum(weight.grad.numel() for weight in model.parameters() if weight.grad is not None)


def test_5_only_the_matrices_that_train_have_gradients(make_plain_trainer):
    held = {}
    for faulty in (True, False):
        trainer = make_plain_trainer(objective="rmu", rmu_layer=2, max_steps=1)
        if faulty:  # three matrices in the optimizer, and a gradient of every weight of the model
            trainer.create_optimizer()
            trainer.model.requires_grad_(True)
        trainer.add_callback(watch := Held())
        trainer.train()
        held[faulty] = watch.count
    assert held[False] == 3 * 32 * 48  # the MLP's way back into the residual stream, in three layers
    assert held[True] > 7 * held[False]


# 7. One process that evaluates, numbers made up, and means that one NaN poisons


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_7_all_processes_evaluate(batch_size):
    """With real processes: tests/invariants/test_evaluation_processes.py."""
    lengths = list(range(5, 26))
    alone = list(iter_indices(lengths, batch_size, None, None))  # process 0 of a run in which the others wait
    dealt = [
        list(iter_indices(lengths, batch_size, SimpleNamespace(process_index=rank, num_processes=2), None))
        for rank in range(2)
    ]
    assert [len(batches) for batches in dealt] == [ceil(len(alone) / 2)] * 2
    assert len(alone) > 1
    counted = [place for batches in dealt for places, counts in batches if counts for place in places.tolist()]
    assert sorted(counted) == list(range(21))


def privleak_from_nothing(auc, retrained=None):
    """privleak with the AUC of the retrained model, or 1/2 where there is none."""
    theirs = 1 - (0.5 if retrained is None else retrained)
    return 100 * (1 - auc - theirs) / (theirs + 1e-10)


@pytest.mark.parametrize("auc", [0.2, 0.5, 0.9])
def test_7_without_a_retrained_model_there_is_no_number(auc):
    truth = privleak_from_nothing(auc, retrained=0.8)
    assert truth - privleak_from_nothing(auc) > 25  # a number that looks like one
    model, retrained = (Measured({"mia_min_k": Metric(value)}) for value in (auc, 0.8))
    metric = privleak(model, None)
    assert (metric.value, metric.reason) == (None, "no results of a retrained model")
    assert privleak(model, retrained).value == pytest.approx(truth)
    quality = forget_quality({0: 0.5, 1: 0.7}, None)
    assert (quality.value, quality.reason) == (None, "no results of a retrained model")


@pytest.mark.parametrize("broken", [nan, inf])
def test_7_a_number_that_is_not_finite_does_not_poison_the_rest(broken):
    metric = auc_metric(("forget", {0: 1.0, 1: broken}), ("holdout", {0: 2.0}), num_rows=3)
    assert (metric.value, metric.num_samples, metric.num_skipped) == (1.0, 2, 1)
    scores = set_of(row(0.25), row(0.75), row(broken))
    assert not np.isfinite(np.mean([each.answers[0].probability for each in scores.samples.values()]))
    metric = probability(scores)
    assert (metric.value, metric.num_samples, metric.num_skipped) == (pytest.approx(0.5), 2, 1)


def test_7_model_utility_has_no_value_where_a_part_has_none():
    parts = {f"retain_{part}": Metric(0.5, True) for part in ("probability", "rouge")}
    parts["retain_truth_ratio"] = probability(set_of(row(nan)))
    metric = model_utility(Measured(parts, sets={"retain": set_of(name="retain")}))
    assert (metric.value, metric.reason) == (None, "no retain_truth_ratio (no row has a finite number)")
