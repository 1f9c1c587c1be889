"""A row whose numbers are not finite takes no other row along, and counts as forgotten nowhere."""

import math

import pytest
import torch
from fixtures_trainer import qa_rows

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows

BROKEN = 2
MARK = "~"  # a token that one row alone has
ROWS = [
    Row((Message("user", row["question"]),), row["answer"] + " and so on" * (place % 3))
    for place, row in enumerate(qa_rows(0, 6))
]
ROWS[BROKEN] = Row(ROWS[BROKEN].prompt, MARK)


@pytest.fixture
def broken(make_model, tokenizer):
    """A model that is not a number where it reads `MARK`."""
    model = make_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer(MARK)["input_ids"][-1]] = math.nan
    return model


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_only_the_row_itself_is_skipped_whatever_the_batch(broken, make_model, tokenizer, batch_size):
    """Two rows or three were skipped, by batch size and packing."""
    suite = custom_suite(ROWS, ROWS[:2], ROWS[3:], max_new_tokens=4)
    options = ScoringOptions(batch_size=batch_size, progress=False)
    metrics = evaluate_model(broken, tokenizer, suite, options).metrics
    sound = evaluate_model(make_model(), tokenizer, suite, options).metrics
    for name in ("forget_probability", "forget_exact_memorization", "forget_rouge"):
        assert (metrics[name].num_samples, metrics[name].num_skipped) == (5, 1), name
        expected = {row: value for row, value in sound[name].values["forget"].items() if row != BROKEN}
        assert metrics[name].values["forget"] == pytest.approx(expected, abs=1e-6)
    assert metrics["retain_probability"].num_skipped == 0
    assert metrics["mia_min_k_plus_plus"].num_skipped == metrics["entanglement_variance_ratio"].num_skipped == 1


@pytest.mark.parametrize("likely", [0, 3])
def test_a_scan_loses_only_the_row_itself(broken, make_model, tokenizer, likely):
    rows, collator = tokenize(ROWS, tokenizer, name="rows"), RowCollator(tokenizer)
    together, alone = (
        score_rows(model, AnswerReader(model), rows, collator, batch_size=size, with_features=True, top_k=likely)
        for model, size in ((broken, 6), (make_model(), 1))
    )
    kept = torch.tensor([row for row in range(6) if row != BROKEN])
    assert together.sum_nll.isnan().nonzero().flatten().tolist() == [BROKEN]
    torch.testing.assert_close(together.sum_nll[kept], alone.sum_nll[kept])
    torch.testing.assert_close(together.features[kept], alone.features[kept])
    if likely:
        assert together.top_k_logps.logps.isfinite().all(dim=1).sum() == sum(alone.num_tokens[kept])
