"""Two processes find what one does: real processes over gloo, with batches that one of them repeats."""

import json

import evaluation_worker
import numpy as np
import pytest
import torch
from conftest import make_tokenizer, qa_rows
from fixtures_evaluation import assert_same_numbers, invented_sets, lively_model, numbers_by_name
from processes import join_group, start_group

from egup_trainer.evaluation.evaluation import read_evaluation
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.evaluation.suites.custom import custom_suite

QUIET = ScoringOptions(batch_size=1, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the two processes wrote what they ended with; `log` holds what they printed."""
    folder = tmp_path_factory.mktemp("processes")
    tokenizer = make_tokenizer()
    lively_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, qa_rows(0, 5))))
    join_group(start_group(evaluation_worker.main, folder, processes=2, log=folder / "log"))
    return folder


@pytest.fixture(scope="module")
def read(folder):
    """read("facts"): that record of both processes."""

    def load(name: str) -> list:
        paths = [folder / f"{name}{rank}.pt" for rank in range(2)]
        assert all(path.is_file() for path in paths), (folder / "log").read_text()[-3000:]
        return [torch.load(path, weights_only=False) for path in paths]

    return load


@pytest.fixture(scope="module")
def expected():
    """Scores of one process, with gradient norms."""
    options = ScoringOptions(batch_size=1, with_gradient_norms=True, progress=False)
    tokenizer = make_tokenizer()
    return score_sets(lively_model(tokenizer), tokenizer, invented_sets(), options)


def test_the_processes_are_really_two_and_one_of_them_repeats_a_batch(read):
    facts = read("facts")
    assert [each["world_size"] for each in facts] == [2, 2]
    assert {each["wrapped"] for each in facts} == {"DistributedDataParallel"}
    for size in (1, 3, 16):
        first, second = (each["batches"][size] for each in facts)
        assert len(first) == len(second)
        assert (all(counts for _, counts in first), second[-1][1]) == (True, size == 16)
        places = [place for batch, counts in first + second for place in batch if counts]
        assert sorted(places) == list(range(21))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_two_processes_have_the_numbers_of_one(read, expected, batch_size):
    for scores in read(f"scores-{batch_size}-"):
        if batch_size == 3:  # the run without gradient norms
            assert {row.gradient_norm for each in scores.values() for row in each.samples.values()} == {None}
            numbers = {name: number for name, number in numbers_by_name(expected).items() if "norm" not in name}
            assert numbers_by_name(scores).keys() == numbers.keys()
            for name, number in numbers_by_name(scores).items():
                np.testing.assert_allclose(number, numbers[name], rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            assert_same_numbers(scores, expected)


def test_two_processes_compute_the_metrics_of_one(read):
    tokenizer = make_tokenizer()
    forget, holdout, retain = invented_sets()
    suite = custom_suite(forget.rows, retain.rows, holdout.rows, max_new_tokens=4)
    model = lively_model(tokenizer)
    alone = evaluate_model(model, tokenizer, suite, QUIET, model_before=model).values
    for evaluation in read("evaluation"):
        assert list(evaluation.values) == list(alone)
        assert evaluation.values["fluency_perplexity"] > 1
        for name, value in evaluation.values.items():
            assert value == (None if alone[name] is None else pytest.approx(alone[name], rel=1e-5, abs=1e-6)), name


def test_the_command_writes_once(read, folder):
    assert read("command") == [0, 0]
    found = read_evaluation(folder / "results.json")
    assert found.run["processes"] == 2
    assert found.sets["forget"].num_rows == 5
    assert (folder / "log").read_text().count("Written to") == 1


def test_bars_are_shown_by_the_first_process_alone(read, folder):
    read("command")
    log = (folder / "log").read_text()
    assert log.count("Computing metrics") > 0
    assert log.count("Scoring texts:   0%") == 3  # of the evaluation, of its generations, of the command


def test_fewer_batches_than_processes_serve(read):
    tokenizer, rows = make_tokenizer(), invented_sets()[0].rows[:2]
    alone = score_sets(lively_model(tokenizer), tokenizer, [RowSet("forget", rows, with_features=True)], QUIET)
    for scores in read("few"):
        assert_same_numbers(scores, alone)
