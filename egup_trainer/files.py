"""Writing files so that a reader finds the old content or the new one, never a mixture and never a part."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from egup_trainer.errors import StateError

PRIVATE, READABLE = 0o600, 0o644
"""Modes: readable by the user alone, or by everyone as far as the user's umask allows."""


def write_file(path: str | Path, content: str | bytes, *, private: bool = True) -> None:
    """Writes one file; see `write_files`.

    Example:
        >>> # write_file("results.json", "{}")
    """
    write_files({Path(path): content}, private=private)


def write_files(contents: Mapping[Path, str | bytes], *, private: bool = True) -> None:
    """Writes files that belong together. No file takes its name before all of them are on the disk.

    Each content goes to a temporary file with a name of its own in the same folder, so that two processes never share
    one; it is synced to the disk and then renamed. Folders are created.

    Args:
        contents: text (written as UTF-8) or bytes, by path.
        private: whether only the user may read the files.

    Raises:
        StateError: a file cannot be written, for example because the disk is full. What was there before is unchanged.
    """
    writers = {path: _writer(content) for path, content in contents.items()}
    _write(writers, private)


def write_file_with(path: str | Path, write: Callable[[Path], None], *, private: bool = True) -> None:
    """Writes one file by a function that takes the path of the temporary file, such as safetensors' `save_file`.

    Raises:
        StateError: as in `write_files`.
    """
    _write({Path(path): write}, private)


def sync_folder(folder: str | Path) -> None:
    """Syncs every file below a folder, and the folders themselves, to the disk; call it before renaming the folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


@contextmanager
def one_line_write_errors(what: str | Path) -> Iterator[None]:
    """Turns an error of the file system into one line.

    Args:
        what: what is being written, for the message.

    Raises:
        StateError: an error of the file system was raised in the block.
    """
    try:
        yield
    except OSError as error:
        raise StateError(
            got=f"{what}, which cannot be written ({error.strerror or type(error).__name__})",
            expected="enough space, and permission to write",
            fix="free some space or choose another path",
        ) from error


def _write(writers: Mapping[Path, Callable[[Path], None]], private: bool) -> None:
    temporary: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            with one_line_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(prefix=f"_{path.name}.", suffix=".tmp", dir=path.parent)  # mode 0600
                os.close(handle)
                temporary[path] = Path(name)
                write(temporary[path])
                temporary[path].chmod(PRIVATE if private else READABLE & ~_umask())
                _sync(temporary[path])
        for path in writers:
            with one_line_write_errors(path):
                temporary[path].replace(path)
                del temporary[path]
        for folder in {path.parent for path in writers}:
            _sync(folder)
    finally:
        for left in temporary.values():
            left.unlink(missing_ok=True)


def _writer(content: str | bytes) -> Callable[[Path], None]:
    data = content.encode("utf-8") if isinstance(content, str) else content
    return lambda path: _write_bytes(path, data)


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _sync(path: Path) -> None:
    """fsync; some file systems cannot sync a folder, which is then as safe as they make it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
