"""What the token that closes an answer counts in: the numbers of each metric, computed once more from whole logits.

The definitions are those of the field's reference implementation, of one model and one set of tokens: losses with all
labels, what looks at single tokens without the closing one.
"""

import zlib
from math import exp, isnan, log

import numpy as np
import pytest
import torch
from fixtures_evaluation import lively_model
from fixtures_scores import set_of, text

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.evaluation.metrics import membership_inference as attacks
from egup_trainer.evaluation.metrics.memorization import exact_memorization, extraction_strength
from egup_trainer.evaluation.metrics.probability import probability
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scores import SampleScores, TextScores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets

ANSWERS = ("Ada Lorn lives in Aren with two cats.", "Bo", "Ines Vale wrote The Ninth Tide.")


@pytest.fixture(scope="module")
def model(tokenizer):
    return lively_model(tokenizer, "llama").double()


def test_each_metric_is_that_of_the_definition_on_the_same_tokens(model, tokenizer):
    rows = [Row((Message("user", "Who?"),), answer) for answer in ANSWERS] + [Row((), ANSWERS[0])]
    forget = RowSet("forget", rows, with_membership=True)
    options = ScoringOptions(batch_size=3, with_gradient_norms=True, progress=False)
    scores = score_sets(model, tokenizer, [forget], options)["forget"]
    found = {
        "probability": probability(scores),
        "exact": exact_memorization(scores),
        "strength": extraction_strength(scores),
        **{name: attacks.attack(name, scores, set_of(name="holdout")) for name in attacks.ATTACKS},
    }
    samples = tokenize(rows, tokenizer, name="forget set").rows
    for number, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        expected = by_definition(model, row, sample.input_ids.tolist(), sample.labels.tolist())
        for name, value in expected.items():
            assert found[name].values["forget"][number] == pytest.approx(value, abs=1e-6), name


def by_definition(model, row, ids, labels):
    """The numbers of one row, token by token, in float64."""
    out = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    places = [place for place in range(1, len(ids)) if labels[place] != -100]
    recited = places[:-1] if row.prompt else places  # the last one closes an answer
    loss = -sum(out[place - 1, ids[place]] for place in places) / len(places)
    inner = -sum(out[place - 1, ids[place]] for place in recited) / len(recited)
    gradients = torch.autograd.grad(inner, [*model.parameters()], allow_unused=True)
    logps = [out[place - 1, ids[place]].item() for place in recited]
    hits = [out[place - 1].argmax().item() == ids[place] for place in recited]
    n, lowest = len(recited), max(1, int(0.4 * len(recited)))
    z = []
    for place, logp in zip(recited, logps, strict=True):
        each = out[place - 1].detach()
        mean = (each.exp() * each).sum().item()
        variance = (each.exp() * each**2).sum().item() - mean**2
        z.append((logp - mean) / max(variance, 1e-6) ** 0.5)
    return {
        "probability": exp(-loss.item()),
        "exact": sum(hits) / n,
        "strength": next((1 - k / n for k in range(n) if all(hits[k:])), 0.0),
        "mia_loss": loss.item(),
        "mia_zlib": loss.item() / len(zlib.compress(row.answer.encode())),
        "mia_min_k": -sum(sorted(logps)[:lowest]) / lowest,
        "mia_min_k_plus_plus": -sum(sorted(z)[:lowest]) / lowest,
        "mia_gradnorm": sum(g.square().sum().item() for g in gradients if g is not None) ** 0.5,
    }


def test_the_closing_token_counts_in_losses_and_nowhere_else():
    """Recited by heart, .5 a token, but for an end that is never predicted: .125."""
    closed = TextScores(np.log([0.5, 0.5, 0.125]), np.array([True, True, False]), np.array([1.0, 2.0, -9.0]), True)
    scores = set_of(SampleScores((closed,), zlib_bytes=10))
    assert probability(scores).value == pytest.approx(0.5 ** (5 / 3))
    assert exact_memorization(scores).value == 1
    assert extraction_strength(scores).value == 1
    (row,) = scores.samples.values()
    assert attacks.loss(row) == pytest.approx(5 / 3 * log(2))
    assert attacks.zlib_ratio(row) == pytest.approx(log(2) / 6)
    assert attacks.min_k(row) == pytest.approx(log(2))
    assert attacks.min_k_plus_plus(row) == -1


def test_where_the_end_is_all_there_is_nothing_is_recited_and_it_is_said(model, tokenizer):
    only = SampleScores((TextScores(np.log([0.9]), np.array([True]), np.zeros(1), True),))
    other = SampleScores((text(0.5, 0.5, greedy="10"),))
    alone, beside = set_of(only), set_of(only, other)
    for metric in (exact_memorization, extraction_strength):
        assert (metric(alone).value, metric(alone).reason) == (
            None,
            "no row has a scored answer before the token that closes it",
        )
        assert (metric(beside).num_samples, metric(beside).num_skipped) == (1, 1)
    assert isnan(attacks.min_k(only))
    for name in ("mia_min_k", "mia_min_k_plus_plus"):
        assert attacks.attack(name, alone, alone).reason == "no row has the number"
    ended = RowSet("forget", [Row((Message("user", "a"),), "<eos>")], Template("", "\n"), with_membership=True)
    scores = score_sets(model, tokenizer, [ended], ScoringOptions(with_gradient_norms=True, progress=False))
    assert isnan(scores["forget"].samples[0].gradient_norm)


def test_a_model_that_recites_a_text_in_pieces_has_all_of_it(tokenizer):
    """A plain text is not closed, in one piece or in several."""
    text = Row((), "Ada Lorn lives in Aren with two cats and a dog.")
    (sample,) = tokenize([text], tokenizer, name="forget set").rows
    model = lively_model(tokenizer, "llama")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pieces = tokenize([text], tokenizer, name="forget set", max_length=8).rows
    for _ in range(60):
        lines = [torch.from_numpy(each.input_ids).long()[None] for each in (sample, *pieces)]
        loss = sum(model(input_ids=line, labels=line).loss for line in lines)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for max_length in (8, 64):
        rows = RowSet("forget", [text], max_length=max_length)
        scores = score_sets(model, tokenizer, [rows], ScoringOptions(progress=False))["forget"]
        assert extraction_strength(scores).value == 1
        assert probability(scores).value > 0.9
