"""Who runs which batch: each row once, equally many batches for all, little padding, and the whole put together."""

from types import SimpleNamespace

import pytest
import torch
from conftest import make_tiny_model
from hypothesis import given
from hypothesis import strategies as st

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.batches import (
    autocast_of,
    device_of,
    evaluation_mode,
    iter_batches,
    iter_indices,
    merge_processes,
)


def process(rank: int, world: int):
    """Stands in for the `Accelerator` of one process of several."""
    return SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))


def dealt(lengths, batch_size, accelerator=None):
    """The batches of a process as lists of places, and which of them count."""
    pairs = [(places.tolist(), counts) for places, counts in iter_indices(lengths, batch_size, accelerator, None)]
    return [places for places, _ in pairs], [counts for _, counts in pairs]


def test_batches_by_hand():
    """Longest first; rows of one length stay in order."""
    assert dealt([5, 9, 5, 7, 9, 1], 4) == ([[1, 4, 3, 0], [2, 5]], [True, True])


def test_long_rows_come_fewer_at_a_time():
    """Four rows of up to 256 tokens are 1024 tokens: one of 2000, one of 600, two of 512, four of 256."""
    lengths = [256, 512, 2000, 256, 600, 255, 512, 1, 256, 400]
    assert dealt(lengths, 4)[0] == [[2], [4], [1, 6], [9, 0], [3, 8, 5, 7]]


def test_two_processes_by_hand():
    """Three batches: the second process repeats the last one, which does not count."""
    assert dealt([6, 5, 4, 3, 2], 2, process(0, 2)) == ([[0, 1], [4]], [True, True])
    assert dealt([6, 5, 4, 3, 2], 2, process(1, 2)) == ([[2, 3], [4]], [True, False])


def test_fewer_batches_than_processes():
    assert dealt([6, 5], 8, process(0, 3)) == ([[0, 1]], [True])
    assert dealt([6, 5], 8, process(2, 3)) == ([[0, 1]], [False])


def test_no_rows_make_no_batches():
    assert dealt([], 4) == ([], [])


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_each_row_counts_once_and_all_processes_run_equally_often(lengths, batch_size, world):
    parts = [dealt(lengths, batch_size, process(rank, world)) for rank in range(world)]
    assert len({len(batches) for batches, _ in parts}) == 1
    places = [
        place
        for batches, counts in parts
        for batch, each in zip(batches, counts, strict=True)
        if each
        for place in batch
    ]
    assert sorted(places) == list(range(len(lengths)))
    for batches, _ in parts:
        for batch in batches:
            longest = max(lengths[place] for place in batch)
            assert len(batch) <= batch_size
            assert len(batch) == 1 or len(batch) * longest <= batch_size * 256
            assert [lengths[place] for place in batch] == sorted((lengths[place] for place in batch), reverse=True)


# Batches of rows


@pytest.fixture
def dataset(rows):
    """Rows of 12, 30, 7, 22 and 9 tokens."""
    return RowDataset(rows)


@pytest.fixture
def model(make_model):
    return make_model()


def test_a_batch_holds_the_rows_of_the_ids_at_its_places(model, dataset):
    ids = torch.tensor([2, 1, 4])
    batches = list(iter_batches(model, dataset, ids, RowCollator(None), batch_size=2))
    assert [places.tolist() for places, _ in batches] == [[1, 2], [0]]
    for places, batch in batches:
        rows = [dataset.rows[index] for index in ids[places]]
        assert batch["input_ids"].shape == (len(rows), max(map(len, rows)))
        for place, row in enumerate(rows):
            assert batch["input_ids"][place, : len(row)].tolist() == row.input_ids.tolist()
            assert batch["labels"][place, : len(row)].tolist() == row.labels.tolist()
            assert batch["attention_mask"][place].sum() == len(row)


def test_a_repeated_batch_is_run_but_has_no_places(model, dataset):
    batches = list(
        iter_batches(model, dataset, torch.arange(5), RowCollator(None), batch_size=2, accelerator=process(1, 2))
    )
    assert [places.tolist() for places, _ in batches] == [[0, 4], []]
    assert len(batches[1][1]["input_ids"]) == 1


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_evaluation_mode_for_the_pass_alone(model, dataset, training):
    model.train(training)
    modes = [model.training for _ in iter_batches(model, dataset, torch.arange(5), RowCollator(None), batch_size=2)]
    assert modes == [False, False, False]
    assert model.training is training
    passing = iter_batches(model, dataset, torch.arange(5), RowCollator(None), batch_size=2)
    next(passing)
    assert not model.training
    passing.close()  # as an error in the loop does
    assert model.training is training


def test_the_mode_comes_back_after_an_error(model):
    model.train()
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        _ = 1 / int(model.training)
    assert model.training


def test_the_bar_counts_rows_and_only_the_first_process_has_one(capsys):
    for _ in iter_indices([3, 2, 1], 2, None, "Scoring", unit="text"):
        pass
    shown = capsys.readouterr().err
    assert "Scoring" in shown
    assert "/3" in shown
    assert "text" in shown
    for _ in iter_indices([3, 2, 1], 2, process(1, 2), "Scoring"):
        pass
    for _ in iter_indices([3, 2, 1], 2, process(0, 2), None):
        pass
    assert capsys.readouterr().err == ""


# Putting together


def test_results_of_one_process_are_whole():
    assert merge_processes({"a": torch.tensor([1.0, 2.0])}, None)["a"].tolist() == [1.0, 2.0]


def test_results_of_several_processes_are_added():
    asked = []

    def reduce(tensor, how):
        asked.append(how)
        return tensor + 10

    merged = merge_processes({"a": torch.tensor([1]), "b": torch.zeros(2)}, SimpleNamespace(reduce=reduce))
    assert {name: value.tolist() for name, value in merged.items()} == {"a": [11], "b": [10.0, 10.0]}
    assert asked == ["sum", "sum"]


def test_device_and_autocast_are_those_of_the_run(tokenizer):
    model = make_tiny_model(tokenizer)
    assert device_of(model, None) == torch.device("cpu")
    assert device_of(model, SimpleNamespace(device=torch.device("meta"))) == torch.device("meta")
    with autocast_of(None):
        assert not torch.is_autocast_enabled("cpu")
    run = SimpleNamespace(autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    with autocast_of(run):
        assert torch.is_autocast_enabled("cpu")
