"""Atomic writing: a reader finds either the old content of a file or the new one, never a part or a mixture."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from egup_trainer.errors import StateError, first_line

PRIVATE, READABLE = 0o600, 0o644
"""File modes: readable only by the user, or by everyone as far as the user's umask allows."""
UNFINISHED = "_unfinished"
"""A file in a model's folder which says that a run there has not ended, so that the files may not belong together."""
_BLOCK = 1 << 24
_MIN_SPACE = 4096  # bytes that the disk must have room for
_NAME_LENGTH = 40  # characters of a file's name that its temporary file repeats


def write_file(path: str | Path, content: str | bytes, *, private: bool = True) -> None:
    """Writes one file; see `write_files`.

    Example:
        >>> # write_file("results.json", "{}")
    """
    write_files({Path(path): content}, private=private)


def write_files(contents: Mapping[Path, str | bytes], *, private: bool = True) -> None:
    """Writes files that belong together. No file is replaced before the new content of all of them is on the disk.

    Each content is written to a temporary file in the same folder, synced to the disk, and then renamed. Folders are
    created. The old files except the first are removed before the first is replaced. A process that is killed in
    between therefore leaves files of one call: some may be missing, but not the first, and none is older than it. Two
    processes that write the same files do so one after the other.

    Args:
        contents: Text (written as UTF-8) or bytes by path. All files are in one folder.
        private: Whether only the user may read the files.

    Raises:
        StateError: A file cannot be written, for example because the disk is full. The old files are unchanged.
    """
    data = {path: each.encode("utf-8") if isinstance(each, str) else each for path, each in contents.items()}
    _write({path: partial(_write_bytes, data=each) for path, each in data.items()}, private)


def write_file_with(path: str | Path, write: Callable[[Path], None], *, private: bool = True) -> None:
    """Writes one file with a function that takes the path of a temporary file, such as `save_file` of safetensors.

    Raises:
        StateError: As in `write_files`.
    """
    _write({Path(path): write}, private)


def append_to_file(path: str | Path, text: str) -> int:
    """Appends whole lines to a file and syncs it. If that fails, the file is left as it was.

    Returns:
        The size of the file in bytes.

    Raises:
        StateError: As in `write_files`.
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
    """Checks that `path`, a file or a folder, can be written, without changing it. Call this before long work.

    Raises:
        StateError: The folder cannot be created or written to, or the disk is full.
    """
    path = Path(path).absolute()
    folder = path if path.is_dir() else next(each for each in path.parents if os.path.lexists(each))
    with one_line_write_errors(path), tempfile.NamedTemporaryFile(dir=folder, prefix="_") as file:
        file.write(bytes(_MIN_SPACE))
        file.flush()
        os.fsync(file.fileno())


def file_digest(path: str | Path, progress: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file, as hexadecimal digits.

    Args:
        progress: Called after each block with the number of bytes that were read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def sync_folder(folder: str | Path) -> None:
    """Syncs all files and folders below a folder to the disk. Call this before renaming the folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))


def refuse_unfinished(folder: str | Path) -> None:
    """Raises `StateError` if the run that writes to a model's folder has not ended."""
    if (Path(folder) / UNFINISHED).is_file():
        raise StateError(
            got=f"{folder}, where a run has not ended (or was killed, so that its files may not belong together)",
            expected="a finished model, or a checkpoint",
            fix="wait for that run, or start it again (--resume_from_checkpoint true if it has checkpoints)",
        )


@contextmanager
def one_line_write_errors(what: str | Path) -> Iterator[None]:
    """Turns errors of the file system, including those of safetensors and `torch.save`, into a `StateError`.

    Raises:
        StateError: The block raised an error of the file system.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or is_of_the_disk(error)):
            raise
        raise StateError(
            got=f"{what}, which cannot be written ({getattr(error, 'strerror', None) or first_line(error)})",
            expected="enough space, and permission to write",
            fix="free some space or choose another path",
        ) from error


def is_of_the_disk(error: Exception) -> bool:
    """Whether an error comes from reading or writing a file, and not from an upload, whose `OSError` has no number."""
    if isinstance(error, OSError):
        return error.errno is not None
    if isinstance(error, RuntimeError):
        return "inline_container" in str(error)  # torch.save
    from safetensors import SafetensorError

    return isinstance(error, SafetensorError)


def _write(writers: Mapping[Path, Callable[[Path], None]], private: bool) -> None:
    temporary: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            with one_line_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                prefix = f"_{path.name[:_NAME_LENGTH]}."
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
    """Locks a folder against other processes that rename files in it, if the file system supports this."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # neither exists on Windows
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def sync(path: Path) -> None:
    """Syncs a file or a folder to the disk. Some file systems cannot sync a folder, which is then not an error."""
    try:
        # Windows syncs only what may be written to.
        handle = os.open(path, os.O_RDWR if os.name == "nt" and path.is_file() else os.O_RDONLY)
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
