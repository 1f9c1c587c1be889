"""Files appear whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from egup_trainer import files
from egup_trainer.errors import StateError


def _modes(*paths: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def test_content_and_mode(tmp_path):
    files.write_file(tmp_path / "new" / "a.json", "grün")
    files.write_file(tmp_path / "b.html", b"page", private=False)
    assert (tmp_path / "new" / "a.json").read_bytes() == "grün".encode()
    assert _modes(tmp_path / "new" / "a.json", tmp_path / "b.html") == [0o600, 0o644 & ~files._umask()]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "b.html", "new"]


def test_a_replaced_file_takes_the_new_mode(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o666)
    files.write_file(path, "new")
    assert path.read_text() == "new"
    assert _modes(path) == [0o600]


def test_a_full_disk_leaves_every_file_as_it_was(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    second.write_text("old")
    write = files._write_bytes

    def fill(path, data):
        if b"second" in data:
            write(path, data[:2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(files, "_write_bytes", fill)
    with pytest.raises(StateError) as raised:
        files.write_files({first: "new first", second: "new second"})
    assert raised.value.got == (f"{second}, which cannot be written (No space left on device)")
    assert first.read_text() == second.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_a_file_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), sync(handle)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append(f"rename {to.name}"), replace(path, to)))
    files.write_files({tmp_path / "a": "1", tmp_path / "b": "2"})
    assert events == ["sync", "sync", "rename a", "rename b", "sync"]
