"""The output folder of a run: one run at a time, and what a run saves of its model appears together or not at all."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from egup_trainer.errors import StateError
from egup_trainer.files import UNFINISHED, one_line_write_errors, sync, sync_folder, write_file
from egup_trainer.records.judgments import MERGED
from egup_trainer.records.schema import CARD_NAME, LEDGER_NAME, RECORD_NAME, RUN_NAME

logger = logging.getLogger(__name__)

LOCK_NAME = "_lock"
STAGING = "_publishing"
"""The folder in the output folder where a model is written with all its files. Folders named _* are never uploaded."""
OVERWRITTEN = "_overwritten"
"""The folder in the output folder that keeps records and ledgers of earlier models, in numbered folders."""
_ENTRANCES = ("config.json", "adapter_config.json")  # without them no library loads a model
_RECORDS = (RECORD_NAME, LEDGER_NAME, RUN_NAME)
_OF_A_MODEL = (
    *(*_ENTRANCES, "generation_config.json", "*.safetensors", "*.safetensors.index.json", "training_args.bin"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template.jinja"),
    *("additional_chat_templates", CARD_NAME, *_RECORDS, MERGED),
)
_handles: dict[str, int | None] = {}
_times: Counter[str] = Counter()
"""By folder that this process holds: the lock file (None where there are no locks), and how many times it is held."""


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Locks an output folder for one run. If the process dies, the system unlocks it. A process may lock it twice.

    Raises:
        StateError: another run has locked it, or it cannot be made.
    """
    path, existed = Path(folder).resolve(), Path(folder).exists()
    with one_line_write_errors(folder):
        path.mkdir(parents=True, exist_ok=True)
    key = str(path)
    if not _times[key]:
        _handles[key] = _lock(Path(folder))
    _times[key] += 1
    try:
        yield
    finally:
        _times[key] -= 1
        if not _times[key]:
            _unlock(path, _handles.pop(key))
        if not existed:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _unlock(folder: Path, handle: int | None) -> None:
    if handle is not None:
        with suppress(OSError):
            # Before it is unlocked: a run that opened the file meanwhile checks whether it is still there.
            (folder / LOCK_NAME).unlink()
        os.close(handle)


def _lock(folder: Path) -> int | None:
    """The handle of the folder's lock file; None, with a warning, if the file system has no locks."""
    path = folder / LOCK_NAME
    try:
        import fcntl

        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # another run removed the file while this one opened it
    except BlockingIOError:
        raise is_taken(folder) from None
    except (ImportError, OSError) as error:
        logger.warning("No lock can be had in %s (%s): do not start a second run there.", folder, error)
        return None


def is_taken(folder: str | Path) -> StateError:
    """The error of a second run in a folder."""
    return StateError(
        got=f"a run that is writing to {folder}",
        expected="one run at a time in each folder",
        fix="set another --output_dir",
    )


def refuse_finished(folder: str | Path) -> None:
    """Raises `StateError` for a folder that holds a finished model."""
    if _holds_model(folder) and not (Path(folder) / UNFINISHED).is_file():
        raise StateError(
            got=f"the output folder {folder}, which holds a finished model",
            expected="one without, or a checkpoint there to resume from",
            fix="set another --output_dir, or add --overwrite_output_dir: that model and its record are then replaced "
            "once the run has ended",
        )


def _holds_model(folder: str | Path) -> bool:
    return any((Path(folder) / name).is_file() for name in (RECORD_NAME, *_ENTRANCES))


def mark_unfinished(folder: str | Path) -> None:
    """Notes that a run has begun in a folder that holds no finished model; `appearing_together` removes the note."""
    if not _holds_model(folder):
        write_file(
            Path(folder) / UNFINISHED,
            "A run is in progress or was interrupted: this folder does not hold a complete model.\n",
        )


@contextmanager
def appearing_together(
    output: str | Path, writes: bool = True, wait: Callable[[], None] = lambda: None, is_again: bool = False
) -> Iterator[Path]:
    """A folder for a saved model and all that goes with it; at the end its content appears in `output`, by renames.

    The files of an earlier model in `output` are removed only then. While files are renamed, the file `UNFINISHED` is
    beside them. If an error ends the block, `output` is as it was.

    Args:
        writes: whether this process is the one that writes.
        wait: waits for the other processes, once the folder is made.
        is_again: whether the model there was saved by this run as well. The record and ledger of another run are kept.

    Raises:
        StateError: a file cannot take its place.
    """
    output = Path(output)
    stage = output / STAGING / output.resolve().name  # a card is named by the folder that it is written to
    if writes:
        with one_line_write_errors(output):
            shutil.rmtree(stage.parent, ignore_errors=True)
            stage.mkdir(parents=True)
    wait()
    try:
        yield stage
    except BaseException:
        if writes:
            shutil.rmtree(stage.parent, ignore_errors=True)
        raise
    if writes:
        with one_line_write_errors(output):
            _publish(stage, output, is_again)
            shutil.rmtree(stage.parent, ignore_errors=True)


def _publish(stage: Path, output: Path, is_again: bool) -> None:
    """Moves old files out and new files in; a model's configuration leaves first and comes last."""
    sync_folder(stage)
    write_file(output / UNFINISHED, "The files of a model are taking their places: some are old and some are new.\n")
    gone = stage.with_name(f"{stage.name}.gone")
    gone.mkdir()
    numbers = [int(path.name) for path in output.glob(f"{OVERWRITTEN}/*") if path.name.isdecimal()]
    kept = gone if is_again else output / OVERWRITTEN / str(max(numbers, default=0) + 1)
    old = {path for pattern in _OF_A_MODEL for path in output.glob(pattern)} if _holds_model(output) else set()
    new = list(stage.iterdir())
    for path in sorted({*old, *(output / each.name for each in new)}, key=lambda path: path.name not in _ENTRANCES):
        if path.exists():
            place = kept if path.name in _RECORDS else gone
            place.mkdir(parents=True, exist_ok=True)
            path.rename(place / path.name)
    for path in sorted(new, key=lambda path: path.name in _ENTRANCES):
        path.rename(output / path.name)
    sync(output)
    (output / UNFINISHED).unlink()


def copy_model(checkpoint: Path, folder: Path) -> None:
    """Copies what belongs to the model, not to its training, from a checkpoint."""
    for path in {path for pattern in _OF_A_MODEL for path in checkpoint.glob(pattern)}:
        if path.is_file() and path.name != "egup_state.safetensors":
            shutil.copy(path, folder / path.name)
