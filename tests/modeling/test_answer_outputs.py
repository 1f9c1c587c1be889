"""Sums, means and parts of a forward pass's numbers."""

import pytest
import torch

from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.outputs import AnswerOutputs


def three_rows():
    """Row 0 with tokens of -1 and -3, row 1 with none, row 2 with one of -5."""
    logps = torch.tensor([-1.0, -3.0, -5.0], requires_grad=True)
    return AnswerOutputs(logps, torch.tensor([0, 0, 2]), torch.tensor([2.0, 0.0, 1.0]))


def test_sums_and_means_of_rows():
    out = three_rows()
    assert out.sum_nll.tolist() == [4, 0, 5]
    assert out.mean_nll.tolist() == [2, 0, 5]


def test_mean_nll_gives_each_token_its_share_of_the_row():
    out = three_rows()
    out.mean_nll.sum().backward()
    assert out.token_logps.grad.tolist() == [-0.5, -0.5, -1]


@pytest.mark.parametrize("sizes", [[2, 3], [1, 3, 1], [5], [4, 1], [0, 5]])
def test_parts_equal_separate_readings(sizes, lively, rows, pad):
    model = lively().eval()
    reader = AnswerReader(model)
    parts = reader(model, **pad(rows), keep_logits=True).split(sizes)
    assert len(parts) == len(sizes)
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        if size:
            alone = reader(model, **pad(rows[start : start + size], width=30), keep_logits=True)
            for name in ("token_logps", "token_rows", "num_tokens", "features", "logits", "sum_nll", "mean_nll"):
                torch.testing.assert_close(getattr(part, name), getattr(alone, name), atol=1e-5, rtol=1e-5)
        else:
            assert part.sum_nll.shape == (0,)
        start += size


def test_parts_of_outputs_without_features_and_logits():
    first, second = three_rows().split([1, 2])
    assert first.features is None
    assert second.logits is None
    assert second.token_rows.tolist() == [1]
    assert second.sum_nll.tolist() == [0, 5]


def test_gradient_of_a_part_stays_in_its_rows():
    out = three_rows()
    out.split([2, 1])[1].sum_nll.sum().backward()
    assert out.token_logps.grad.tolist() == [0, 0, -1]
