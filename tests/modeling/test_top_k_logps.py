"""Top-k log-probabilities: values by hand, their gradient, and their indices in a table of all rows."""

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
    most = TopKLogProbs.of(P.log(), k=99)  # all tokens but one
    assert most.ids.shape == (1, 3)
    assert most.logps[0, 3].item() == pytest.approx(log(0.05))


@pytest.mark.parametrize("chunk", [1, 120, 1 << 22], ids=["token by token", "ragged", "whole"])
def test_chunks_change_nothing(chunk, monkeypatch):
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("egup_trainer.modeling.top_k_logps._CHUNK", chunk)
    found = TopKLogProbs.of(logits, k=5)
    assert torch.equal(found.ids.long(), logits.topk(5).indices)
    named = logits.log_softmax(-1).gather(1, found.ids.long())
    torch.testing.assert_close(found.logps, torch.cat([named, (1 - named.exp().sum(1, True)).log()], 1))
    assert top_k_bytes(7, 5) == sum(value.numel() * value.element_size() for value in vars(found).values())


@pytest.mark.parametrize(
    ("k", "answer", "ids", "probabilities"),
    [
        (2, 1, [1, 3], [0.6, 0.25, 0.15]),  # it is the most likely one anyway
        (2, 3, [3, 1], [0.25, 0.6, 0.15]),  # among the two, but not first
        (2, 2, [2, 1], [0.05, 0.6, 0.35]),  # takes the place of the second
        (99, 2, [2, 1, 3], [0.05, 0.6, 0.25, 0.1]),
        (1, 0, [0], [0.1, 0.9]),
    ],
)
def test_a_given_token_comes_first(k, answer, ids, probabilities):
    logits = P.log().requires_grad_()
    found = TopKLogProbs.of(logits, k, first=torch.tensor([answer]))
    assert found.ids.tolist() == [ids]
    assert found.logps[0].exp().tolist() == pytest.approx(probabilities, rel=1e-5)
    assert found.logps.isfinite().all()


@pytest.mark.parametrize("chunk", [1, 120, 1 << 22], ids=["token by token", "ragged", "whole"])
def test_the_given_tokens_are_those_of_their_positions(chunk, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits, answers = torch.randn(7, 50, generator=generator), torch.randint(50, (7,), generator=generator)
    monkeypatch.setattr("egup_trainer.modeling.top_k_logps._CHUNK", chunk)
    found = TopKLogProbs.of(logits, 5, first=answers)
    assert torch.equal(found.ids[:, 0].long(), answers)
    others = logits.scatter(1, answers[:, None], -torch.inf).topk(4).indices
    assert torch.equal(found.ids[:, 1:].long(), others)


def test_the_gradient_is_that_of_the_classes():
    logits = P.log().clone().requires_grad_()
    coarse_logps(logits, torch.tensor([[1, 3]], dtype=torch.int32))[0, 2].backward()
    # d log(p_0 + p_2) / dx = p_l / .15 for those two, less the softmax
    expected = torch.tensor([[0.1 / 0.15, 0, 0.05 / 0.15, 0]]) - P
    torch.testing.assert_close(logits.grad, expected)


def test_offsets_of_ragged_rows():
    offsets = TokenOffsets(torch.tensor([2, 0, 3, 1]))
    assert offsets.total == 6
    assert offsets.of_rows(torch.tensor([3, 1, 0, 3])).tolist() == [5, 0, 1, 5]
    assert offsets.of_rows(torch.tensor([], dtype=torch.long)).tolist() == []


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_scan_returns_them_row_after_row(batch_size, lively, rows, pad):
    model, ids, collator = lively().eval(), torch.tensor([4, 3, 0]), RowCollator(None)
    reader = AnswerReader(model)
    found = score_rows(model, reader, RowDataset(rows), collator, batch_size=batch_size, ids=ids, top_k=3).top_k_logps
    with torch.no_grad():
        logits = [reader(model, **pad([rows[index]]), keep_logits=True).logits for index in ids]
    expected = TopKLogProbs.of(torch.cat(logits), k=3)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.logps, expected.logps, atol=1e-5, rtol=1e-5)
    assert len(expected.ids) == 0 + 21 + 5
