"""Two processes that hold half of the weights each (FSDP2) score and write what one process with all of them does."""

import evaluation_worker
import pytest
import torch
from conftest import make_tokenizer
from fixtures_evaluation import assert_same_numbers, invented_sets, lively_model
from processes import run_group

from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.evaluation.suites.custom import custom_suite


def test_two_processes_with_fsdp2_score_and_write_as_one(tmp_path):
    run_group(evaluation_worker.main_fsdp2, tmp_path, processes=2, log=tmp_path / "log")
    held, evaluations, scores = (
        [torch.load(tmp_path / f"{name}{rank}.pt", weights_only=False) for rank in range(2)]
        for name in ("held", "evaluation", "scores")
    )
    assert held == pytest.approx([0.5, 0.5], abs=0.05)
    tokenizer, options = make_tokenizer(), ScoringOptions(progress=False)
    model = lively_model(tokenizer)
    alone = score_sets(model, tokenizer, invented_sets(), options)
    assert any(sample.generation for each in alone.values() for sample in each.samples.values())
    for each in scores:
        assert_same_numbers(each, alone)
    forget, holdout, retain = invented_sets()
    suite = custom_suite(forget.rows, retain.rows, holdout.rows, max_new_tokens=4)
    expected = evaluate_model(model, tokenizer, suite, options).values
    for each in evaluations:
        assert list(each.values) == list(expected)
        for name, value in each.values.items():
            assert value == (None if expected[name] is None else pytest.approx(expected[name], rel=1e-4, abs=1e-6)), (
                name
            )
