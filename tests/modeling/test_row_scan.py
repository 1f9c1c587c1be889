"""The scan: the same numbers in whatever batches, and a file that is only read by whom it was made for."""

import copy
import os

import pytest
import torch
from torch import nn

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import StateError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import RowScores, load_scan, save_scan, scan_fingerprint, score_rows

ALL = torch.arange(5)


@pytest.fixture
def dataset(rows):
    return RowDataset(rows)


def score(model, dataset, **options):
    reader = AnswerReader(model)
    return score_rows(model, reader, dataset, RowCollator(None), **{"batch_size": 2, **options})


@pytest.fixture
def plain_scores(lively, rows, pad, plain_logps):
    """L_i of each row on its own."""
    model = lively().eval()
    with torch.no_grad():
        return torch.tensor([-plain_logps(model, pad([row]))[0].sum().item() for row in rows])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_scores_equal_one_row_at_a_time(batch_size, lively, dataset, plain_scores):
    scores = score(lively(), dataset, batch_size=batch_size, with_features=True)
    torch.testing.assert_close(scores.sum_nll, plain_scores, atol=2e-5, rtol=1e-5)
    assert scores.num_tokens.tolist() == [5, 5, 1, 21, 0]
    torch.testing.assert_close(scores.mean_nll, plain_scores / torch.tensor([5.0, 5, 1, 21, 1]), atol=1e-5, rtol=1e-5)
    assert scores.features.shape == (5, 32)


@pytest.mark.parametrize("ids", [[4, 3, 2, 1, 0], [2, 0], [3], [1, 1, 4]])
def test_scores_come_in_the_order_asked_for(ids, lively, dataset, plain_scores):
    whole = score(lively(), dataset, with_features=True)
    scores = score(lively(), dataset, ids=torch.tensor(ids), with_features=True)
    torch.testing.assert_close(scores.sum_nll, plain_scores[ids], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(scores.features, whole.features[ids], atol=1e-5, rtol=1e-5)


def test_features_are_those_of_the_reader(lively, dataset, rows, pad):
    model = lively().eval()
    expected = AnswerReader(model)(model, **pad(rows)).features
    torch.testing.assert_close(score(model, dataset, with_features=True).features, expected, atol=1e-5, rtol=1e-5)
    assert score(model, dataset).features.shape == (5, 0)


def test_features_are_projected_as_they_are_read(lively, dataset):
    model, projection = lively(), torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    whole = score(model, dataset, with_features=True).features
    projected = score(model, dataset, with_features=True, projection=projection).features
    torch.testing.assert_close(projected, whole @ projection, atol=1e-5, rtol=1e-5)
    assert score(model, dataset, projection=projection).features.shape == (5, 0)


def test_scores_hold_no_graph(lively, dataset):
    scores = score(lively(), dataset, with_features=True)
    assert not scores.sum_nll.requires_grad
    assert not scores.features.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was(training, make_model, dataset):
    model = make_model("gpt2").train(training)
    score(model, dataset)
    assert {module.training for module in model.modules()} == {training}


def test_rows_are_scored_without_dropout(make_model, dataset):
    model = make_model("gpt2").train()
    assert torch.equal(score(model, dataset).sum_nll, score(model, dataset).sum_nll)


def test_longest_rows_share_a_batch(lively, dataset):
    widths, model = [], lively()
    model.register_forward_hook(
        lambda module, args, kwargs, out: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    score(model, dataset)
    trial = 5  # two short rows with other ends, apart and in one line
    assert widths[trial:] == [52, 21, 7]  # lengths 30 + 22, 12 + 9, 7, each batch in one line


def test_probability_is_the_mean_over_rows():
    scores = RowScores(torch.tensor([0.0, 4.0]), torch.tensor([3.0, 2.0]), torch.zeros(2, 0))
    assert scores.probability == pytest.approx((1 + 2.718281828**-2) / 2)


# The fingerprint


class Sums(nn.Module):
    """A handful of weights of each kind."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, -1.5], [2.0, 0.0]], dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(3.0, dtype=dtype))
        self.register_buffer("steps", torch.arange(3))


def fingerprint(model, dataset, ids=ALL, **settings):
    return scan_fingerprint(model, [(dataset, ids)], {"layer": 1, **settings})


def test_an_equal_copy_has_the_same_fingerprint(lively, dataset, rows):
    model = lively()
    assert fingerprint(model, dataset) == fingerprint(copy.deepcopy(model), RowDataset(list(rows)))
    assert fingerprint(model, dataset) == fingerprint(lively(), dataset)


def test_the_order_of_settings_does_not_matter(dataset):
    rows = [(dataset, ALL)]
    assert scan_fingerprint(Sums(), rows, {"a": 1, "b": 2}) == scan_fingerprint(Sums(), rows, {"b": 2, "a": 1})


@pytest.mark.parametrize("place", [0, 1, 17, -1])
def test_one_ulp_of_one_weight_changes_the_fingerprint(place, lively, dataset):
    model = lively()
    before = fingerprint(model, dataset)
    weight = model.model.layers[2].mlp.down_proj.weight.data.view(-1)
    weight[place] = torch.nextafter(weight[place], torch.tensor(torch.inf))
    assert fingerprint(model, dataset) != before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_one_bit_counts_in_each_dtype(dtype, dataset):
    model, other = Sums(dtype), Sums(dtype)
    bits = {2: torch.int16, 8: torch.int64}[other.weight.element_size()]
    other.weight.data.view(bits)[1, 1] += 1
    assert fingerprint(model, dataset) != fingerprint(other, dataset)


def test_swapped_weights_change_the_fingerprint(dataset):
    other = Sums()
    other.weight.data = other.weight.data.T.clone()
    assert fingerprint(Sums(), dataset) != fingerprint(other, dataset)


def test_signs_and_buffers_count(dataset):
    for name, value in (("bias", -3.0), ("steps", torch.tensor([0, 2, 1]))):
        other = Sums()
        getattr(other, name).data.copy_(torch.as_tensor(value))
        assert fingerprint(Sums(), dataset) != fingerprint(other, dataset)


def test_the_place_of_a_weight_counts_in_any_layout(dataset):
    model = Sums()
    before = fingerprint(model, dataset)
    model.weight.data = model.weight.data.T.contiguous().T  # the same matrix, stored by columns
    assert fingerprint(model, dataset) == before


def test_rows_and_settings_change_the_fingerprint(dataset, rows):
    model, before = Sums(), fingerprint(Sums(), dataset)
    other = RowDataset([*rows[:4], rows[3]])
    assert fingerprint(model, other) != before
    assert fingerprint(model, dataset, ALL.flip(0)) != before
    assert fingerprint(model, dataset, ALL[:4]) != before
    assert fingerprint(model, dataset, layer=2) != before
    assert fingerprint(model, dataset, mixed="bf16") != before


def test_a_row_that_moves_from_one_set_to_the_next_changes_the_fingerprint(dataset):
    settings = {"layer": 1}
    first = scan_fingerprint(Sums(), [(dataset, ALL[:2]), (dataset, ALL[2:])], settings)
    second = scan_fingerprint(Sums(), [(dataset, ALL[:3]), (dataset, ALL[3:])], settings)
    assert first != second


def test_which_tokens_are_scored_changes_the_fingerprint(rows):
    other = copy.deepcopy(rows)
    other[0].labels[7] = -100
    assert fingerprint(Sums(), RowDataset(rows)) != fingerprint(Sums(), RowDataset(other))


# The file


@pytest.fixture
def scan():
    table = torch.arange(6.0).reshape(2, 3)
    return {"forget.sum_nll": torch.tensor([1.5, 2.5]), "forget.features": table.T, "retain.features": table[:, :0]}


def test_a_scan_comes_back_whole(tmp_path, scan):
    path = tmp_path / "deep" / "scan.safetensors"
    save_scan(path, scan, "abc")
    loaded = load_scan(path, "abc")
    assert loaded.keys() == scan.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in scan.items())
    assert [file.name for file in path.parent.iterdir()] == ["scan.safetensors"]  # no half-written file stays


def test_a_scan_is_readable_by_its_owner_alone(tmp_path, scan):
    path = tmp_path / "folder" / "scan.safetensors"
    mask = os.umask(0)
    try:
        save_scan(path, scan, "abc")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_scan_of_something_else_is_refused(tmp_path, scan):
    path = tmp_path / "scan.safetensors"
    save_scan(path, scan, "abc")
    with pytest.raises(StateError) as caught:
        load_scan(path, "0123456789abcdef")
    assert str(caught.value) == (
        f"got the scan {path} of other weights, rows or settings; expected fingerprint 0123456789ab; "
        "delete it, and it is made anew"
    )


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_file_cut_short_is_refused(keep, tmp_path, scan):
    path = tmp_path / "scan.safetensors"
    save_scan(path, scan, "abc")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StateError) as caught:
        load_scan(path, "abc")
    assert (
        str(caught.value)
        == f"got the scan {path}, which cannot be read; expected a whole file; delete it, and it is made anew"
    )


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(StateError, match="which cannot be read; expected a whole file; delete it, and it is made anew"):
        load_scan(tmp_path / "none.safetensors", "abc")


def test_a_failed_write_leaves_the_old_scan(tmp_path, scan, monkeypatch):
    import safetensors.torch

    path = tmp_path / "scan.safetensors"
    save_scan(path, scan, "abc")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(StateError, match=r"scan\.safetensors, which cannot be written \(disk full\)"):
        save_scan(path, {"other": torch.zeros(1)}, "def")
    assert load_scan(path, "abc").keys() == scan.keys()
