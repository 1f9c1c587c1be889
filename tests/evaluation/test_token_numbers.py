"""Numbers at answer tokens: the standardised log-probability, and which number ends up at whose token."""

import math

import numpy as np
import pytest
import torch

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.evaluation import token_numbers
from egup_trainer.evaluation.token_numbers import TokenNumbers, standardise
from egup_trainer.modeling.outputs import AnswerOutputs

CPU = torch.device("cpu")


# z


def test_z_by_hand():
    """p = (1/2, 1/4, 1/4): mu = -3/2 ln 2, sigma = ln 2 / 2; so z is +1 for the first token and -1 for the others."""
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log().repeat(3, 1) + torch.tensor([[3.0], [-7.0], [0.0]])
    own = torch.tensor([0.5, 0.25, 0.25]).log()
    torch.testing.assert_close(standardise(own, logits), torch.tensor([1.0, -1.0, -1.0]))


def test_sigma_has_a_floor():
    """All tokens alike: the variance is 0, and sigma that of the floor, 1e-3."""
    z = standardise(torch.tensor([-math.log(4) - 0.002]), torch.zeros(1, 4))
    torch.testing.assert_close(z, torch.tensor([-2.0]), atol=1e-3, rtol=1e-3)


def test_a_token_that_cannot_be_adds_nothing():
    logits = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    assert logits[0, 3] == -math.inf
    torch.testing.assert_close(standardise(torch.tensor([0.5]).log(), logits), torch.tensor([1.0]))
    assert standardise(logits[0, 3:], logits).tolist() == [-math.inf]


def test_z_keeps_its_digits_where_the_variance_is_small_against_the_mean():
    """sum p log^2 p - mu^2 in float32 would be rounding alone here."""
    logits = torch.linspace(0, 0.02, 50_000)[None]
    exact = logits.double().log_softmax(dim=-1)
    mean = (exact.exp() * exact).sum()
    sigma = ((exact.exp() * exact**2).sum() - mean**2).clamp_min(1e-6).sqrt()
    found = standardise(logits.log_softmax(dim=-1)[:, 7], logits)
    torch.testing.assert_close(found.double(), (exact[:, 7] - mean) / sigma, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("most", [1, 7, 30, 10**6])
def test_blocks_change_nothing(monkeypatch, most):
    logits = torch.randn(11, 10, generator=torch.Generator().manual_seed(0)) * 3
    own = logits.log_softmax(dim=-1)[:, 2]
    whole = standardise(own, logits)
    monkeypatch.setattr(token_numbers, "_MAX_LOGITS", most)
    torch.testing.assert_close(standardise(own, logits), whole)


def test_half_precision_logits_are_worked_on_in_float32():
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    own = logits.float().log_softmax(dim=-1)[:, 2]
    torch.testing.assert_close(standardise(own, logits), standardise(own, logits.float()), atol=0, rtol=0)


# Whose number


VOCAB = 6


def row(*labels: int) -> TokenizedRow:
    """A row whose tokens are its labels, or 5 where nothing is scored."""
    ids = np.array([5 if label == -100 else label for label in labels], dtype=np.int32)
    return TokenizedRow(ids, np.array(labels, dtype=np.int32))


# Samples with 2, 1, 3, 0 and 2 answer tokens; the first token of the last one cannot be predicted.
ROWS = [row(-100, 1, 2), row(-100, -100, 3), row(-100, 4, 0, 1), row(-100, -100), row(2, 1, 3)]
COUNTS = [2, 1, 3, 0, 2]


def outputs_of(samples: list[int], with_features=True) -> AnswerOutputs:
    """What a reader would make of these samples: each number says whose it is; even tokens are hits."""
    counts = [COUNTS[sample] for sample in samples]
    logps = [-(10.0 * sample + place) for sample in samples for place in range(COUNTS[sample])]
    logits = torch.zeros(len(logps), VOCAB)
    tokens = [int(t) for sample in samples for t in ROWS[sample].labels[1:] if t != -100]
    for place, token in enumerate(tokens):
        logits[place, token if token % 2 == 0 else 5] = 2.0
    features = torch.tensor([[sample, 100.0 + sample] for sample in samples]) if with_features else None
    rows = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts))
    return AnswerOutputs(torch.tensor(logps), rows, torch.tensor(counts, dtype=torch.float32), features, logits)


def labels_of(samples: list[int]) -> torch.Tensor:
    return RowCollator(None).pad([ROWS[sample] for sample in samples])["labels"]


def fresh(z=(True, False, True, False, False), features=(False, True, True, False, True)) -> TokenNumbers:
    return TokenNumbers(RowDataset(ROWS), torch.tensor(z), torch.tensor(features), CPU)


def kept(*batches: list[int], **options) -> TokenNumbers:
    numbers = fresh(**options)
    for samples in batches:
        numbers.keep(torch.tensor(samples), outputs_of(samples), labels_of(samples))
    return numbers


@pytest.mark.parametrize("batches", [([0, 1, 2, 3, 4],), ([4, 2], [3, 1, 0]), ([2], [0], [4], [1], [3])])
def test_each_number_ends_up_at_its_own_token(batches):
    gathered = kept(*batches).gather(None)
    for sample in (0, 1, 2, 4):
        text = gathered.text((sample,))
        assert text.token_logps.tolist() == [-(10.0 * sample + place) for place in range(COUNTS[sample])]
        assert text.token_logps.dtype == np.float64
    hits = {sample: gathered.text((sample,)).greedy_match.tolist() for sample in (0, 1, 2, 4)}
    assert hits == {0: [False, True], 1: [False], 2: [True, True, False], 4: [False, False]}
    assert gathered.text((0,)).greedy_match.dtype == bool


def test_z_is_kept_for_the_samples_that_want_it():
    gathered = kept([4, 2], [3, 1, 0]).gather(None)
    assert [gathered.text((sample,)).token_z is None for sample in (0, 1, 2, 4)] == [False, True, False, True]
    for sample in (0, 2):
        outputs = outputs_of([sample])
        expected = standardise(outputs.token_logps, outputs.logits)
        np.testing.assert_allclose(gathered.text((sample,)).token_z, expected.numpy(), rtol=1e-6)


def test_features_of_a_text_in_pieces_are_weighted_by_their_tokens():
    gathered = kept([4, 2], [3, 1, 0]).gather(None)
    assert gathered.features((2,)).tolist() == [2.0, 102.0]
    np.testing.assert_allclose(gathered.features((1, 2, 4)), [(1 * 1 + 3 * 2 + 2 * 4) / 6, 100 + 15 / 6], rtol=1e-6)


def test_a_text_in_pieces_is_one_text():
    text = kept([4, 2], [3, 1, 0]).gather(None).text((0, 2))
    assert text.token_logps.tolist() == [-0.0, -1.0, -20.0, -21.0, -22.0]
    assert text.greedy_match.tolist() == [False, True, True, True, False]
    assert len(text.token_z) == 5


def test_rows_beyond_the_given_samples_are_dropped():
    """A batch that only fills up is run, but its numbers are another process's."""
    numbers = fresh()
    numbers.keep(torch.tensor([2]), outputs_of([2, 0]), labels_of([2, 0]))
    numbers.keep(torch.tensor([], dtype=torch.long), outputs_of([4, 1]), labels_of([4, 1]))
    gathered = numbers.gather(None)
    assert gathered.text((2,)).token_logps.tolist() == [-20.0, -21.0, -22.0]
    for sample in (0, 4):
        assert gathered.text((sample,)).token_logps.tolist() == [0.0, 0.0]


class OtherProcess:
    """Stands in for an `Accelerator` of two processes: adds what the other one has."""

    def __init__(self, other: TokenNumbers | None = None):
        self.theirs = Recorder()
        if other is not None:
            other.gather(self.theirs)

    def reduce(self, tensor, how):
        assert how == "sum"
        return tensor + self.theirs.given.pop(0)


class Recorder:
    """Stands in for an `Accelerator`: notes what is handed in."""

    def __init__(self):
        self.given = []

    def reduce(self, tensor, how):
        self.given.append(tensor)
        return tensor


def test_two_processes_together_have_all_numbers():
    whole = kept([0, 1, 2, 3, 4]).gather(None)
    gathered = kept([4, 2]).gather(OtherProcess(kept([3, 1, 0])))
    for sample in (0, 1, 2, 4):
        assert gathered.text((sample,)).token_logps.tolist() == whole.text((sample,)).token_logps.tolist()
        assert gathered.text((sample,)).greedy_match.tolist() == whole.text((sample,)).greedy_match.tolist()
    for sample in (1, 2, 4):
        assert gathered.features((sample,)).tolist() == whole.features((sample,)).tolist()


def test_a_process_without_a_batch_of_its_own_hands_in_as_much_as_the_others():
    """Or the others would wait for it, or add up different things."""
    idle = fresh()
    idle.keep(torch.tensor([], dtype=torch.long), outputs_of([4, 1]), labels_of([4, 1]))
    first, second = Recorder(), Recorder()
    kept([4, 1]).gather(first)
    idle.gather(second)
    assert [tensor.shape for tensor in second.given] == [tensor.shape for tensor in first.given]
    assert not any(tensor.any() for tensor in second.given)
