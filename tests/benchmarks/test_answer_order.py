"""Estimates of the order of answer tokens, with a tiny model."""

import torch
from conftest import qa_rows

from benchmarks.answer_order import correlation, estimates
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize


def test_each_estimate_has_a_number_for_each_token(make_model, tokenizer):
    proxies, others, asked = (
        tokenize(load_rows(qa_rows(start, start + 4)), tokenizer, name="rows").rows for start in (0, 10, 20)
    )
    found = estimates(proxies, others, asked, make_model().eval(), tokenizer)
    count = sum(int(row.is_scored.sum()) for row in asked)
    assert {len(each) for each in found.values()} == {count}
    assert all(each.isfinite().all() and (each <= 0).all() for each in found.values())
    both = found["64 nearest and bigrams that copy"]
    torch.testing.assert_close(both, (found["64 nearest"] + found["bigrams that copy"]) / 2)
    assert not torch.equal(found["bigrams"], found["bigrams that copy"])


def test_correlation_by_hand():
    assert correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-2.0, -4.0, -6.0])) == -1.0
