"""The scan: the same numbers in any batches, and a file that is read only with its own fingerprint."""

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


@pytest.mark.parametrize("ids", [None, [4, 3, 2, 1, 0], [3], [1, 1, 4]], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_scores_equal_those_of_single_rows_in_the_requested_order(
    batch_size, ids, lively, dataset, rows, pad, plain_scores
):
    model = lively().eval()
    order = ALL if ids is None else torch.tensor(ids)
    scores = score(model, dataset, batch_size=batch_size, ids=None if ids is None else order, with_features=True)
    counts = torch.tensor([5.0, 5, 1, 21, 0])[order]
    torch.testing.assert_close(scores.sum_nll, plain_scores[order], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(scores.mean_nll, plain_scores[order] / counts.clamp_min(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(scores.num_tokens, counts)
    features = AnswerReader(model)(model, **pad(rows)).features[order]
    torch.testing.assert_close(scores.features, features, atol=1e-5, rtol=1e-5, check_stride=False)
    assert not scores.sum_nll.requires_grad
    assert not scores.features.requires_grad


def test_features_are_projected_as_they_are_read(lively, dataset):
    model, projection = lively(), torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    whole = score(model, dataset, with_features=True).features
    projected = score(model, dataset, with_features=True, projection=projection).features
    torch.testing.assert_close(projected, whole @ projection, atol=1e-5, rtol=1e-5)
    assert score(model, dataset, projection=projection).features.shape == (5, 0)


@pytest.mark.parametrize("training", [True, False])
def test_rows_are_scored_without_dropout_and_the_mode_is_restored(training, make_model, dataset):
    model = make_model("gpt2").train(training)
    assert torch.equal(score(model, dataset).sum_nll, score(model, dataset).sum_nll)
    assert {module.training for module in model.modules()} == {training}


def test_the_longest_rows_share_a_batch(lively, dataset):
    widths, model = [], lively()
    model.register_forward_hook(lambda *args: widths.append(args[2]["input_ids"].shape[1]), with_kwargs=True)
    score(model, dataset)
    trial = 5  # passes over two short rows, padded and packed
    assert widths[trial:] == [52, 21, 7]  # lengths 30 + 22, 12 + 9, 7, each batch in one line


def test_probability_is_the_mean_over_rows():
    scores = RowScores(torch.tensor([0.0, 4.0, 1.0]), torch.tensor([3.0, 2.0, 2.0]), torch.zeros(3, 0))
    assert scores.probability == pytest.approx((1 + 2.718281828**-2 + 2.718281828**-0.5) / 3)
    # The last two samples are parts of one row: 5 nats for 4 tokens.
    assert scores.nll_of(torch.tensor([7, 9, 9])).tolist() == pytest.approx([0, 1.25])


# The fingerprint


class Sums(nn.Module):
    """A few weights of each kind."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, -1.5], [2.0, 0.0]], dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(3.0, dtype=dtype))
        self.register_buffer("steps", torch.arange(3))


def fingerprint(model, dataset, ids=ALL, **settings):
    return scan_fingerprint(model, [(dataset, ids)], {"layer": 1, **settings})


def change(model, name, value):
    model.state_dict()[name].copy_(torch.as_tensor(value))


def next_bit(model, index):
    """The next number that the type can represent."""
    weight = model.weight.data
    weight.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]).view(-1)[index] += 1


CHANGES = {
    "first bit": lambda model: next_bit(model, 0),
    "last bit": lambda model: next_bit(model, -1),
    "swapped": lambda model: change(model, "weight", model.weight.detach().T.clone()),
    "sign": lambda model: change(model, "bias", -3.0),
    "buffer": lambda model: change(model, "steps", [0, 2, 1]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CHANGES)
def test_any_change_of_the_weights_changes_the_fingerprint(name, dtype, dataset):
    model, other = Sums(dtype), Sums(dtype)
    CHANGES[name](other)
    assert fingerprint(model, dataset) != fingerprint(other, dataset)


def test_copies_other_strides_and_the_order_of_settings_change_nothing(lively, dataset, rows):
    model = lively()
    assert fingerprint(model, dataset) == fingerprint(copy.deepcopy(model), RowDataset(list(rows)))
    other = Sums()
    other.weight.data = other.weight.data.T.contiguous().T  # the same matrix, stored by columns
    assert fingerprint(Sums(), dataset, a=1, b=2) == fingerprint(other, dataset, b=2, a=1)


def test_rows_labels_and_settings_change_the_fingerprint(dataset, rows):
    unscored = copy.deepcopy(rows)
    unscored[0].labels[7] = -100
    changed = [
        fingerprint(Sums(), RowDataset([*rows[:4], rows[3]])),
        fingerprint(Sums(), RowDataset(unscored)),
        fingerprint(Sums(), dataset, ALL.flip(0)),
        fingerprint(Sums(), dataset, ALL[:4]),
        fingerprint(Sums(), dataset, layer=2),
        fingerprint(Sums(), dataset, mixed="bf16"),
        scan_fingerprint(Sums(), [(dataset, ALL[:2]), (dataset, ALL[2:])], {"layer": 1}),
        scan_fingerprint(Sums(), [(dataset, ALL[:3]), (dataset, ALL[3:])], {"layer": 1}),  # a row of the other set
    ]
    assert len({fingerprint(Sums(), dataset), *changed}) == 1 + len(changed)


# The file


@pytest.fixture
def scan():
    table = torch.arange(6.0).reshape(2, 3)
    return {"forget.sum_nll": torch.tensor([1.5, 2.5]), "forget.features": table.T, "retain.features": table[:, :0]}


def test_a_scan_is_restored_and_readable_by_its_owner_alone(tmp_path, scan):
    path = tmp_path / "deep" / "scan.safetensors"
    mask = os.umask(0)
    try:
        save_scan(path, scan, "abc")
    finally:
        os.umask(mask)
    loaded = load_scan(path, "abc")
    assert loaded.keys() == scan.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in scan.items())
    assert [file.name for file in path.parent.iterdir()] == ["scan.safetensors"]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("keep", [None, 0, 4, -1, "missing"])
def test_another_fingerprint_a_broken_and_a_missing_file_are_refused(keep, tmp_path, scan):
    path = tmp_path / "scan.safetensors"
    save_scan(path, scan, "abc")
    if keep == "missing":
        path.unlink()
    elif keep is not None:
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StateError) as caught:
        load_scan(path, "0123456789abcdef" if keep is None else "abc")
    assert str(path) in caught.value.got
    assert ("0123456789ab" in caught.value.expected) == (keep is None)


def test_a_failed_write_leaves_the_old_scan(tmp_path, scan, monkeypatch):
    import safetensors.torch

    path = tmp_path / "scan.safetensors"
    save_scan(path, scan, "abc")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(StateError, match="disk full"):
        save_scan(path, {"other": torch.zeros(1)}, "def")
    assert load_scan(path, "abc").keys() == scan.keys()
