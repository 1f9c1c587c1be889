"""Cached features: what is read is what was written, in few bytes, in memory or in a file without a name."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from egup_trainer.components import feature_table
from egup_trainer.components.feature_table import FeatureTable, TableStorage
from egup_trainer.errors import StateError


def phi(rows, size=256, seed=0):
    return normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture(params=[torch.float16, torch.int8], ids=["small", "large"])
def storage(request, monkeypatch, tmp_path):
    """A storage that keeps tables as it keeps small or large ones."""
    monkeypatch.setattr(feature_table, "_IN_MEMORY", 0 if request.param is torch.int8 else 1 << 30)
    return TableStorage(folder=tmp_path / "tables")


def test_cosines_are_kept(storage):
    features = phi(500)
    table = FeatureTable.of(features, storage)
    found = table[torch.arange(500)]
    largest_error = 1e-6 if table.codes.dtype == torch.float16 else 1e-4
    assert (1 - (found * features).sum(dim=1)).abs().max() < largest_error
    assert found.dtype == torch.float32
    assert found.norm(dim=1).sub(1).abs().max() < 1e-6


def test_one_byte_by_hand(monkeypatch, tmp_path):
    monkeypatch.setattr(feature_table, "_IN_MEMORY", 0)
    table = FeatureTable.of(torch.tensor([[0.6, -0.8], [0.0, 1.0], [0.0, 0.0]]), TableStorage(folder=tmp_path))
    assert table.codes.tolist() == [[95, -127], [0, 127], [0, 0]]  # 0.6 / 0.8 * 127 = 95.25; a feature at the centre
    length = (95**2 + 127**2) ** 0.5
    assert table[torch.tensor([0])].flatten().tolist() == pytest.approx([95 / length, -127 / length])


def test_a_table_is_large_from_64_mb_on_and_only_where_there_is_a_folder(tmp_path):
    rows = (1 << 25) // 64  # of 64 dimensions of two bytes: 64 MB
    assert TableStorage(folder=tmp_path).allocate(rows, 64).dtype == torch.float16
    assert TableStorage(folder=tmp_path).allocate(rows + 1, 64).dtype == torch.int8
    assert TableStorage().allocate(rows + 1, 64).dtype == torch.float16


def test_rows_are_written_alone(storage):
    table, new = FeatureTable.of(phi(6), storage), phi(2, seed=1)
    before = table[torch.arange(6)]
    table[torch.tensor([4, 1])] = new
    after = table[torch.arange(6)]
    assert torch.equal(after[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    torch.testing.assert_close(after[[4, 1]], new, atol=2e-3, rtol=0)


def test_packing_in_parts_changes_nothing(storage, monkeypatch):
    whole = FeatureTable.of(phi(10), storage)
    monkeypatch.setattr(feature_table, "_ROWS", 3)
    assert torch.equal(FeatureTable.of(phi(10), storage).codes, whole.codes)


def test_a_large_table_is_a_file_that_has_no_name(monkeypatch, tmp_path):
    monkeypatch.setattr(feature_table, "_IN_MEMORY", 0)
    folder = tmp_path / "tables"
    table = FeatureTable.of(phi(10), TableStorage(folder=folder))
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"{folder}/" in Path(f"/proc/{os.getpid()}/maps").read_text()
    assert table.codes.nbytes == 10 * 256


def test_a_checkpoint_brings_a_table_back(storage):
    table = FeatureTable.of(phi(5), storage)
    saved = table.codes.clone()
    loaded = FeatureTable.from_checkpoint(saved, storage)
    assert torch.equal(loaded[torch.arange(5)], table[torch.arange(5)])
    loaded[torch.tensor([0])] = phi(1, seed=3)
    assert torch.equal(saved, table.codes)  # its own memory
    assert not torch.equal(loaded.codes[0], saved[0])


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no room for a file")
def test_a_full_disk_is_told_before_the_table_is_written(tmp_path, monkeypatch):
    """Writing to a mapping without room behind it would end the process without a word."""

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(feature_table, "_IN_MEMORY", 0)
    with pytest.raises(StateError) as error:
        TableStorage(folder=tmp_path).allocate(1_000_000, 3)
    assert str(error.value) == (
        f"Got no room for a table of 3 MB in {tmp_path} (No space left on device), but expected room for the features "
        "of all samples. Free some space, or set --scan_cache_dir to a folder on another disk."
    )
