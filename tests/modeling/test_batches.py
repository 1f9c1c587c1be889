"""Which process runs which batch: each row once, equally many batches for all, little padding; and merging."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.batches import evaluation_mode, iter_batches, iter_indices, merge_processes


def process(rank: int, world: int):
    """Stands in for the `Accelerator` of one process of several."""
    return SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))


def batches_of(lengths, batch_size, accelerator=None, **options):
    """The batches of a process as lists of indices, and which of them count."""
    pairs = [
        (found.tolist(), counts) for found, counts in iter_indices(lengths, batch_size, accelerator, None, **options)
    ]
    return [indices for indices, _ in pairs], [counts for _, counts in pairs]


@pytest.mark.parametrize(
    ("lengths", "batch_size", "accelerator", "indices", "counts"),
    [
        # Longest first; rows of one length stay in order.
        ([5, 9, 5, 7, 9, 1], 4, None, [[1, 4, 3, 0], [2, 5]], [True, True]),
        # Four rows of up to 256 tokens are 1024 tokens: one of 2000, one of 600, two of 512, four of 256.
        (
            [256, 512, 2000, 256, 600, 255, 512, 1, 256, 400],
            4,
            None,
            [[2], [4], [1, 6], [9, 0], [3, 8, 5, 7]],
            [True] * 5,
        ),
        # Three batches: the second process repeats the last one, which does not count.
        ([6, 5, 4, 3, 2], 2, process(0, 2), [[0, 1], [4]], [True, True]),
        ([6, 5, 4, 3, 2], 2, process(1, 2), [[2, 3], [4]], [True, False]),
        ([6, 5], 8, process(2, 3), [[0, 1]], [False]),
        ([], 4, None, [], []),
    ],
)
def test_batches_by_hand(lengths, batch_size, accelerator, indices, counts):
    assert batches_of(lengths, batch_size, accelerator) == (indices, counts)


def test_rows_of_one_length():
    assert batches_of([5, 9, 5, 7, 9, 5], 2, of_one_length=True)[0] == [[1, 4], [3], [0, 2], [5]]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_each_row_counts_once_and_all_processes_run_equally_often(lengths, batch_size, world):
    parts = [batches_of(lengths, batch_size, process(rank, world)) for rank in range(world)]
    assert len({len(batches) for batches, _ in parts}) == 1
    pairs = [(batch, counts) for part in parts for batch, counts in zip(*part, strict=True)]
    assert sorted(index for batch, counts in pairs if counts for index in batch) == list(range(len(lengths)))
    for batch, _ in pairs:
        read = [lengths[index] for index in batch]
        assert len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(read) <= batch_size * 256
        assert read == sorted(read, reverse=True)


@pytest.fixture
def dataset(rows):
    """Rows of 12, 30, 7, 22 and 9 tokens."""
    return RowDataset(rows)


def test_a_batch_holds_the_rows_at_its_indices(make_model, dataset):
    ids = torch.tensor([2, 1, 4])
    batches = list(iter_batches(make_model(), dataset, ids, RowCollator(None), batch_size=2))
    assert [indices.tolist() for indices, _ in batches] == [[1, 2], [0]]
    for indices, batch in batches:
        rows = [dataset.rows[index] for index in ids[indices]]
        assert batch["input_ids"].shape == (len(rows), max(map(len, rows)))
        for index, row in enumerate(rows):
            assert batch["input_ids"][index, : len(row)].tolist() == row.input_ids.tolist()
            assert batch["labels"][index, : len(row)].tolist() == row.labels.tolist()
            assert batch["attention_mask"][index].sum() == len(row)


def test_a_repeated_batch_is_run_but_has_no_indices(make_model, dataset):
    options = {"batch_size": 2, "accelerator": process(1, 2)}
    batches = list(iter_batches(make_model(), dataset, torch.arange(5), RowCollator(None), **options))
    assert [indices.tolist() for indices, _ in batches] == [[0, 4], []]
    assert len(batches[1][1]["input_ids"]) == 1


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_evaluation_mode_for_the_pass_alone(make_model, dataset, training):
    model = make_model().train(training)
    passing = iter_batches(model, dataset, torch.arange(5), RowCollator(None), batch_size=2)
    next(passing)
    assert not model.training
    passing.close()  # as an error in the loop does
    assert model.training is training
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        _ = 1 / int(model.training)
    assert model.training is training


def test_only_the_first_process_shows_a_bar_and_only_if_asked(capsys):
    list(iter_indices([3, 2, 1], 2, process(0, 2), "Scoring", unit="text"))
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("Scoring", "/3", "text"))
    list(iter_indices([3, 2, 1], 2, process(1, 2), "Scoring"))
    list(iter_indices([3, 2, 1], 2, process(0, 2), None))
    assert capsys.readouterr().err == ""


def test_results_of_several_processes_are_added():
    assert merge_processes({"a": torch.tensor([1.0, 2.0])}, None)["a"].tolist() == [1.0, 2.0]
    accelerator = SimpleNamespace(reduce=lambda tensor, how: tensor + {"sum": 10}[how])
    merged = merge_processes({"a": torch.tensor([1]), "b": torch.zeros(2)}, accelerator)
    assert {name: value.tolist() for name, value in merged.items()} == {"a": [11], "b": [10.0, 10.0]}
