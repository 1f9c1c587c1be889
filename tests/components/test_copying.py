"""Bigrams that copy from the prompt: values by hand, and what they learn of rows that copy and rows that do not."""

import numpy as np
import pytest
import torch

from egup_trainer.components.copying import CopyingBigrams, _copied, _mixture_share
from egup_trainer.components.output_estimates import BigramOutputs
from egup_trainer.data.schema import IGNORE_INDEX, TokenizedRow


def row(prompt, answer):
    ids = np.array([*prompt, *answer], dtype=np.int32)
    labels = ids.copy()
    labels[: len(prompt)] = IGNORE_INDEX
    return TokenizedRow(ids, labels)


def test_what_is_copied_by_hand():
    copied, inside, has_prompt = _copied([row([1, 2, 1, 3], [1, 3, 9]), row([], [1])])
    # 1 is half of the prompt; after 1 there come 2 and 3; nothing comes after 3, of which a fourth of the prompt is.
    # Of the text, no token is predicted: the model reads its first one.
    assert copied.tolist() == [0.5, 0.5, 0.0]
    assert inside.tolist() == [False, True, False]
    assert has_prompt.tolist() == [True, True, True]
    assert [each.tolist() for each in _copied([row([], [1, 1])])] == [[0.0], [False], [False]]


def test_the_mixture_by_hand():
    rows = [row([1, 2], [2]), row([3, 4], [4]), row([5, 6], [6]), row([7, 8], [0])]
    model = CopyingBigrams(rows, vocabulary=9)
    halves = [BigramOutputs([torch.tensor([token]) for token in tokens], 9) for tokens in ((2, 4), (6, 0))]
    start = torch.tensor([9, 9])
    theirs = torch.cat([halves[0].logps(start, torch.tensor([6, 0])), halves[1].logps(start, torch.tensor([2, 4]))])
    share = _mixture_share(torch.tensor([0.5, 0.0, 0.5, 0.5]), theirs.double().exp())
    assert model.shares.tolist() == pytest.approx([share, 0.0])  # no answer goes on after a token of its prompt
    assert 0.5 < share < 1
    bigram = BigramOutputs([torch.tensor([token]) for token in (2, 4, 6, 0)], 9)
    found = model.logps([row([3, 5], [5]), row([], [0, 5])]).exp()
    plain = bigram.logps(start[:1], torch.tensor([5])).exp().item()
    assert found.tolist() == pytest.approx([share * 0.5 + (1 - share) * plain, plain], rel=1e-5)


def test_names_of_questions_are_likely_and_those_of_others_are_not():
    """Each answer repeats the two tokens of a name: as a model does that never saw the row."""
    names = [(10 + 2 * number, 11 + 2 * number) for number in range(12)]
    rows = [row([1, *name, 2], [3, *name, 4]) for name in names]
    model = CopyingBigrams(rows[:8], vocabulary=40)
    own, other = (model.logps([row([1, *names[9], 2], [3, *name, 4])]) for name in (names[9], names[10]))
    assert (own[1:3] > other[1:3] + 2).all()
    assert own[2] > own[1]  # within a name, what follows in the question is surer than where it begins
    torch.testing.assert_close(own[0], other[0])


@pytest.mark.parametrize("rows", [[row([], [7, 1, 2])], [row([5, 6], [1, 2])] * 4])
def test_where_nothing_is_copied_the_bigrams_are_left(rows):
    bigrams = BigramOutputs([torch.tensor([1, 2])] * len(rows), 8)
    expected = bigrams.logps(torch.tensor([8, 1]), torch.tensor([1, 2]))
    torch.testing.assert_close(CopyingBigrams(rows, vocabulary=8).logps(rows[:1]), expected, rtol=1e-4, atol=1e-4)
