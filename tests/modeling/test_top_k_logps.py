"""The most likely tokens: values by hand, the divergence they give, and their places in a table of all rows."""

from math import log

import pytest
import torch

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows
from egup_trainer.modeling.top_k_logps import TokenOffsets, TopKLogProbs, coarse_logps, top_k_bytes

P = torch.tensor([[0.1, 0.6, 0.05, 0.25]])


def test_by_hand():
    found = TopKLogProbs.of(P.log() + 3, k=2)
    assert found.ids.tolist() == [[1, 3]]
    assert found.logps[0].tolist() == pytest.approx([log(0.6), log(0.25), log(0.15)], rel=1e-5)
    assert found.ids.dtype == torch.int32


@pytest.mark.parametrize("chunk", [1, 120, 1 << 22], ids=["token by token", "ragged", "whole"])
def test_found_a_few_tokens_at_a_time_they_are_the_same(chunk, monkeypatch):
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("egup_trainer.modeling.top_k_logps._CHUNK", chunk)
    found = TopKLogProbs.of(logits, k=5)
    assert torch.equal(found.ids.long(), logits.topk(5).indices)
    named = logits.log_softmax(-1).gather(1, found.ids.long())
    torch.testing.assert_close(found.logps, torch.cat([named, (1 - named.exp().sum(1, True)).log()], 1))


def test_all_tokens_but_one_are_the_most_that_are_kept():
    found = TopKLogProbs.of(P.log(), k=99)
    assert found.ids.shape == (1, 3)
    assert found.logps[0, 3].item() == pytest.approx(log(0.05))


def test_the_gradient_is_that_of_the_classes():
    logits = P.log().clone().requires_grad_()
    coarse_logps(logits, torch.tensor([[1, 3]], dtype=torch.int32))[0, 2].backward()
    # d log(p_0 + p_2) / dx = p_l / .15 for those two, less the softmax
    expected = torch.tensor([[0.1 / 0.15, 0, 0.05 / 0.15, 0]]) - P
    torch.testing.assert_close(logits.grad, expected)


def test_places_of_ragged_rows():
    places = TokenOffsets(torch.tensor([2, 0, 3, 1]))
    assert places.total == 6
    assert places.of_rows(torch.tensor([3, 1, 0, 3])).tolist() == [5, 0, 1, 5]
    assert places.of_rows(torch.tensor([], dtype=torch.long)).tolist() == []


def test_the_size_is_that_of_the_tensors():
    found = TopKLogProbs.of(torch.randn(7, 50), k=5)
    assert top_k_bytes(7, 5) == sum(value.numel() * value.element_size() for value in vars(found).values())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_scan_finds_them_row_after_row(batch_size, lively, rows, pad):
    model, ids = lively().eval(), torch.tensor([4, 3, 0])
    scores = score_rows(
        model, AnswerReader(model), RowDataset(rows), RowCollator(None), batch_size=batch_size, ids=ids, top_k=3
    )
    with torch.no_grad():
        each = [AnswerReader(model)(model, **pad([rows[index]]), keep_logits=True).logits for index in ids]
    expected = TopKLogProbs.of(torch.cat(each), k=3)
    assert torch.equal(scores.top_k_logps.ids, expected.ids)
    torch.testing.assert_close(scores.top_k_logps.logps, expected.logps, atol=1e-5, rtol=1e-5)
    assert len(expected.ids) == 0 + 21 + 5
