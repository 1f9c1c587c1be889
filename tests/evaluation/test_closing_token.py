"""The closing token of an answer, and each metric that leaves it out, against the reference's definition by hand."""

import math

import numpy as np
import pytest
import torch
from fixtures_evaluation import lively_model, question

from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.evaluation import memorization, privacy
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scores import SampleScores, SetScores, TextScores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.evaluation.suites.muse import _recital

LOGPS = np.log([0.5, 0.25, 0.125, 0.5, 0.01])  # the last one is of the closing token
HITS = np.array([True, False, True, True, False])
Z = np.array([1.0, -2.0, 0.5, 0.25, -9.0])


def set_of(text):
    return SetScores("forget", {0: SampleScores((text,), zlib_bytes=10)})


def values(closed):
    row, scores = set_of(text := TextScores(LOGPS, HITS, Z, closed)).samples[0], set_of(text)
    return {
        "exact": memorization.exact_memorization(scores, False).value,
        "strength": memorization.extraction_strength(scores, False).value,
        "min_k": privacy.min_k(row),
        "min_k_plus_plus": privacy.min_k_plus_plus(row),
        "probability": memorization.probability(scores, False).value,
        "loss": privacy.loss(row),
        "zlib": privacy.zlib_ratio(row),
    }


def test_vectors_by_hand():
    whole = -math.log(0.5 * 0.25 * 0.125 * 0.5 * 0.01) / 5
    expected = {
        "exact": 3 / 4,
        "strength": 1 / 2,  # the last two of four
        "min_k": -math.log(0.125),  # the lowest int(.4 * 4) = 1
        "min_k_plus_plus": 2.0,
        "probability": math.exp(-whole),
        "loss": whole,
        "zlib": whole / 10,
    }
    assert values(closed=True) == pytest.approx(expected, abs=1e-12)
    expected |= {"exact": 3 / 5, "strength": 0.0, "min_k": -math.log(0.01 * 0.125) / 2, "min_k_plus_plus": 5.5}
    assert values(closed=False) == pytest.approx(expected, abs=1e-12)


def test_an_answer_that_is_nothing_but_its_closing_token_has_no_number():
    scores = set_of(TextScores(LOGPS[-1:], HITS[-1:], Z[-1:], closed=True))
    for metric in (memorization.exact_memorization(scores, False), memorization.extraction_strength(scores, False)):
        assert (metric.value, metric.num_skipped) == (None, 1)
        assert metric.reason
    assert privacy.min_k(scores.samples[0]) is privacy.min_k_plus_plus(scores.samples[0]) is None
    assert memorization.probability(scores, False).value == pytest.approx(0.01)


def reference(model, ids, labels):
    """The reference implementation's definitions, restated, on the tokens of an answer without its closing one."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    targets = torch.tensor(labels[1:])
    kept = targets != -100
    logps, targets = logits[kept].log_softmax(-1), targets[kept]
    own = logps.gather(1, targets[:, None])[:, 0]
    predicted, n = logps.argmax(-1), len(targets)
    first = next((k for k in range(n) if torch.equal(predicted[k:], targets[k:])), n)
    mean = (logps.exp() * logps).sum(-1)
    variance = (logps.exp() * logps.square()).sum(-1) - mean.square()
    z, count = (own - mean) / variance.clamp_min(1e-6).sqrt(), max(1, int(0.4 * n))
    gradients = torch.autograd.grad(-own.mean(), list(model.parameters()))
    return {
        "exact": (predicted == targets).double().mean().item(),
        "strength": 1 - first / n,
        "min_k": -own.sort().values[:count].mean().item(),
        "min_k_plus_plus": -z.sort().values[:count].mean().item(),
        "gradnorm": torch.stack([each.double().square().sum() for each in gradients]).sum().sqrt().item(),
    }


def test_per_sample_agreement_with_the_references_definitions(tokenizer):
    model = lively_model(tokenizer)
    rows = [
        question("Who is Ada?", "Ada Lorn lives."),
        question("Where?", "In Aren, they say."),
        Row((), "Ada Lorn is"),
    ]
    row_set = RowSet("forget", rows, with_membership=True)
    scores = score_sets(model, tokenizer, [row_set], ScoringOptions(progress=False, with_gradient_norms=True))
    samples = scores["forget"].samples
    for number, sample in enumerate(tokenize(rows, tokenizer, name="forget set").rows):
        ids, labels = sample.input_ids.tolist(), sample.labels.tolist()
        assert sample.closed == bool(rows[number].prompt)
        if sample.closed:
            ids, labels = ids[:-1], labels[:-1]
        found, alone = samples[number], SetScores("forget", {number: samples[number]})
        ours = {
            "exact": memorization.exact_memorization(alone, False).value,
            "strength": memorization.extraction_strength(alone, False).value,
            "min_k": privacy.min_k(found),
            "min_k_plus_plus": privacy.min_k_plus_plus(found),
            "gradnorm": privacy.gradnorm(found),
        }
        assert ours == pytest.approx(reference(model, ids, labels), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("prompt", "text", "joined"),
    [("He went", "home.", "He went home."), ("He went ", "home.", "He went home."), ("He", " went.", "He went.")],
)
def test_muse_texts_are_joined_by_the_space_between_them_and_not_closed(tokenizer, prompt, text, joined):
    from egup_trainer.evaluation.suites.muse import _PLAIN

    row = _recital({"prompt": prompt, "gt": text}, 0)
    assert row.answer == text
    (sample,) = tokenize([row], tokenizer, name="verbmem", template=_PLAIN).rows
    assert tokenizer.decode(sample.input_ids) == joined
    assert not sample.closed
