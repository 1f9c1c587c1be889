"""Writing files so that a reader finds the old content or the new one, never a mixture and never a part."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from egup_trainer.errors import StateError

PRIVATE, READABLE = 0o600, 0o644
"""Modes: readable by the user alone, or by everyone as far as the user's umask allows."""
UNFINISHED = "_unfinished"
"""In the folder of a model: a run there has not ended, or was killed, and the files may not belong together."""
_BLOCK = 1 << 24
_LEAST_SPACE = 4096
_SHOWN = 40
"""Bytes that a disk must have room for, and how much of a file's name stands in that of its temporary file."""


def write_file(path: str | Path, content: str | bytes, *, private: bool = True) -> None:
    """Writes one file; see `write_files`.

    Example:
        >>> # write_file("results.json", "{}")
    """
    write_files({Path(path): content}, private=private)


def write_files(contents: Mapping[Path, str | bytes], *, private: bool = True) -> None:
    """Writes files that belong together. No file takes its name before all of them are on the disk.

    Each content goes to a temporary file with a name of its own in the same folder, so that two processes never share
    one; it is synced to the disk and then renamed. Folders are created. The files but the first are removed before the
    first takes its name, so that a process that is killed in between leaves files of one writing: some may be missing,
    but never the first, and none is older than it. Two processes that write the same files do so one after the other.

    Args:
        contents: text (written as UTF-8) or bytes, by path; all in one folder.
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


def append_to_file(path: str | Path, text: str) -> int:
    """Appends whole lines to a file and syncs it; where that fails, the file is as it was.

    Returns:
        The size of the file, in bytes.

    Raises:
        StateError: as in `write_files`.
    """
    path = Path(path)
    with one_line_write_errors(path), path.open("ab") as file:
        size = file.tell()
        try:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(path, size)
            raise
        return file.tell()


def check_writable(path: str | Path) -> None:
    """Tries whether something can be written at `path`, a file or a folder, which stays as it is; call it before work.

    Raises:
        StateError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path).absolute()
    folder = path if path.is_dir() else next(each for each in path.parents if os.path.lexists(each))
    with one_line_write_errors(path), tempfile.NamedTemporaryFile(dir=folder, prefix="_") as file:
        file.write(bytes(_LEAST_SPACE))
        file.flush()
        os.fsync(file.fileno())


def file_digest(path: str | Path, progress: Callable[[int], Any] | None = None) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Args:
        path: the file.
        progress: told the number of bytes after each block that was read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def sync_folder(folder: str | Path) -> None:
    """Syncs every file below a folder, and the folders themselves, to the disk; call it before renaming the folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))


def refuse_unfinished(folder: str | Path) -> None:
    """Raises `StateError` for the folder of a model whose run has not ended."""
    if (Path(folder) / UNFINISHED).is_file():
        raise StateError(
            got=f"{folder}, where a run has not ended (or was killed, so that its files may not belong together)",
            expected="a finished model, or a checkpoint",
            fix="wait for that run, or start it again (--resume_from_checkpoint true if it has checkpoints)",
        )


@contextmanager
def one_line_write_errors(what: str | Path) -> Iterator[None]:
    """Turns an error of the file system into one line; the errors of safetensors and `torch.save` are among them.

    Args:
        what: what is being written, for the message.

    Raises:
        StateError: an error of the file system was raised in the block.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or is_of_the_disk(error)):
            raise
        raise StateError(
            got=f"{what}, which cannot be written ({getattr(error, 'strerror', None) or _first_line(error)})",
            expected="enough space, and permission to write",
            fix="free some space or choose another path",
        ) from error


def is_of_the_disk(error: Exception) -> bool:
    """Whether an error came from reading or writing a file: not from an upload, whose `OSError` has no number."""
    if isinstance(error, OSError):
        return error.errno is not None
    if isinstance(error, RuntimeError):
        return "inline_container" in str(error)  # torch.save
    from safetensors import SafetensorError

    return isinstance(error, SafetensorError)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _write(writers: Mapping[Path, Callable[[Path], None]], private: bool) -> None:
    temporary: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            with one_line_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                prefix = f"_{path.name[:_SHOWN]}."
                handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)  # mode 0600
                os.close(handle)
                temporary[path] = Path(name)
                write(temporary[path])
                temporary[path].chmod(PRIVATE if private else READABLE & ~_umask())
                sync(temporary[path])
        first, *others = writers
        with _in_turn(first.parent):
            for path in others:
                with one_line_write_errors(path):
                    path.unlink(missing_ok=True)
            for path in writers:
                with one_line_write_errors(path):
                    temporary[path].replace(path)
                    del temporary[path]
        for folder in {path.parent for path in writers}:
            sync(folder)
    finally:
        for left in temporary.values():
            left.unlink(missing_ok=True)


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Holds a folder against other processes that rename files in it, where the file system can do that."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows has neither
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _writer(content: str | bytes) -> Callable[[Path], None]:
    data = content.encode("utf-8") if isinstance(content, str) else content
    return lambda path: _write_bytes(path, data)


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def sync(path: Path) -> None:
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
