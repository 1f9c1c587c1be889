"""Checkpoints that are whole or not there: written aside, listed file by file, then renamed; and one run a folder."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from egup_trainer.errors import StateError
from egup_trainer.files import is_of_the_disk, write_file
from egup_trainer.trainer.mixed_in import MixedIn
from egup_trainer.trainer.state import STATE_NAME

logger = logging.getLogger(__name__)

LIST_NAME = "egup_files.json"
"""In a checkpoint: its files and their sizes, written when all are there."""
STAGING = "_saving"
"""In the output folder: where a checkpoint is written. A name that is never uploaded."""
LOCK_NAME = "_lock"
_TRAINER_STATE = "trainer_state.json"


class WholeCheckpoints(MixedIn):
    """Makes the checkpoints of a `transformers.Trainer` appear at once, and resumes from whole ones alone."""

    resumed_from: str | None = None
    """The checkpoint that `train` went on from, or None if it started at the beginning."""
    _is_saving = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `transformers.Trainer` does.

        Args:
            resume_from_checkpoint: True resumes from the last checkpoint that is whole, and starts at the beginning,
                with a warning, if there are no checkpoints. The folder of a checkpoint resumes from that one.
            args, kwargs: as in `transformers.Trainer.train`.

        Raises:
            StateError: the named checkpoint is not whole, a checkpoint cannot be written, or another run is writing to
                the output folder.
        """
        if isinstance(resume_from_checkpoint, str | Path):
            refuse_unless_whole(Path(resume_from_checkpoint))
        elif resume_from_checkpoint:
            resume_from_checkpoint = self._last_whole()
        self.resumed_from = str(resume_from_checkpoint) if resume_from_checkpoint else None
        with self._alone():
            return super().train(resume_from_checkpoint or None, *args, **kwargs)

    def _last_whole(self) -> str | None:
        """The checkpoint to resume from, the same on every process."""
        needed = (STATE_NAME,) if self.has_training_state() else ()
        found = last_whole(Path(self.args.output_dir), needed, warn=self.is_world_process_zero())
        steps = torch.tensor([-1 if found is None else _steps_of(Path(found))], device=self.accelerator.device)
        if len(self.accelerator.gather(steps).unique()) > 1:
            raise StateError(
                got=f"processes that find different checkpoints in {self.args.output_dir}",
                expected="a folder that all machines see",
                fix="set --output_dir to a shared one, or copy the checkpoints to each machine",
            )
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the output folder, or fails on every process."""
        with ExitStack() as held:
            refusal = None
            try:
                held.enter_context(alone_in(self.args.output_dir) if self.args.should_save else nullcontext())
            except StateError as error:
                refusal = error
            refused = torch.tensor([refusal is not None], device=self.accelerator.device)
            if self.accelerator.gather(refused).any():
                raise refusal or _is_taken(self.args.output_dir)
            yield

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.control.should_training_stop:  # set as the epoch begins: a resumed run was at its end already
            super()._run_epoch(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._is_saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Saves aside, all processes together; then the checkpoint takes its name, old ones go, and it is pushed."""
        folder = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._clear(folder / STAGING)
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
            self._publish(folder, name)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not is_of_the_disk(error):
                raise
            shutil.rmtree(folder / STAGING, ignore_errors=True)
            raise _could_not_write(error, folder, name) from error
        finally:
            self._is_saving = False
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder / name))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_saving:  # an upload walks through the folder in which names still change
            super()._push_from_checkpoint(checkpoint_folder)

    def _clear(self, staging: Path) -> None:
        """Removes what a run that died left behind."""
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _publish(self, folder: Path, name: str) -> None:
        staged, final, state = folder / STAGING / name, folder / name, self.state
        if state.best_model_checkpoint == str(staged):
            state.best_model_checkpoint = str(final)
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        state.save_to_json(str(staged / _TRAINER_STATE))  # it named the folder aside
        write_list(staged)
        shutil.rmtree(final, ignore_errors=True)  # of an earlier run in this folder
        staged.replace(final)
        shutil.rmtree(staged.parent, ignore_errors=True)
        rotate_checkpoints(
            output_dir=str(folder),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=state.best_model_checkpoint,
            use_mtime=True,
        )


@contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Holds an output folder for one run; the system lets go of it if the process dies.

    Raises:
        StateError: another run holds it.
    """
    from filelock import FileLock, Timeout

    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder) / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise _is_taken(folder) from None
    except (OSError, NotImplementedError) as error:
        logger.warning("No lock can be had in %s (%s): do not start a second run there.", folder, error)
    try:
        yield
    finally:
        lock.release()


def write_list(folder: Path) -> None:
    """Writes the files of a checkpoint and their sizes into it."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LIST_NAME]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    write_file(folder / LIST_NAME, json.dumps(sizes, indent=1, sort_keys=True) + "\n")


def missing_from(folder: Path, needed: Iterable[str] = ()) -> str | None:
    """What a checkpoint lacks to be whole, in a few words; None if it is whole.

    Args:
        needed: files that it must have, whatever its list says.
    """
    try:
        sizes = dict(json.loads((folder / LIST_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return f"no whole {LIST_NAME}"
    for name, size in (dict.fromkeys(needed) | sizes).items():
        path = folder / name
        if not path.is_file():
            return f"no {name}"
        if size is not None and path.stat().st_size != size:
            return f"{path.stat().st_size} of {size} bytes of {name}"
    return None


def refuse_unless_whole(folder: Path) -> None:
    """Raises `StateError` if a checkpoint lacks something."""
    lacking = missing_from(folder)
    if lacking:
        raise StateError(
            got=f"the checkpoint {folder} with {lacking}",
            expected="all files that its run wrote",
            fix="resume from another one, or from the last one that is whole (--resume_from_checkpoint true)",
        )


def last_whole(folder: Path, needed: Iterable[str] = (), warn: bool = True) -> str | None:
    """The checkpoint with the most steps that is whole; None if there are no checkpoints at all.

    Args:
        folder: an output folder.
        needed: files that a checkpoint must have.
        warn: whether to tell of those that are passed over, and if there is none.

    Raises:
        StateError: there are checkpoints, and none of them is whole.
    """
    found = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_steps_of, reverse=True)
    for checkpoint in found:
        lacking = missing_from(checkpoint, needed)
        if lacking is None:
            return str(checkpoint)
        if warn:
            logger.warning("The checkpoint %s is passed over: it has %s.", checkpoint, lacking)
    if found:
        raise StateError(
            got=f"no whole checkpoint among {len(found)} in {folder}: the last has {missing_from(found[0], needed)}",
            expected="one with all files that its run wrote",
            fix="move them away to start at the beginning",
        )
    if warn:
        logger.warning("No checkpoint in %s: starting at the beginning.", folder)
    return None


def _steps_of(checkpoint: Path) -> int:
    steps = checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(steps) if steps.isdecimal() else -1


def _is_taken(folder: str) -> StateError:
    return StateError(
        got=f"a run that is writing to {folder}", expected="one run a folder", fix="set another --output_dir"
    )


def _could_not_write(error: Exception, folder: Path, name: str) -> StateError:
    earlier = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_steps_of)
    whole = next((path for path in reversed(earlier) if missing_from(path) is None), None)
    return StateError(
        got=f"{name} that could not be written to {folder}: {error}",
        expected="room for it, and the right to write",
        fix=f"make room, then resume from {whole}, which is whole" if whole else "make room, then start again",
    )
