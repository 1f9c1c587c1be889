"""Checkpoints that are complete or absent, from which a run resumes exactly; and one run per output folder.

The methods of `transformers.Trainer` that are overridden here were checked against transformers 5.17 to 5.23.
"""

import json
import logging
import os
import shutil
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy

from egup_trainer.base_config import RowTrainingConfig
from egup_trainer.conditions import STATE_NAME, Conditions, load_state, refuse_other_conditions, save_state
from egup_trainer.errors import StateError
from egup_trainer.files import file_digest, is_of_the_disk, one_line_write_errors, sync_folder, write_file
from egup_trainer.modeling.offloading import without_device_map
from egup_trainer.output_folder import STAGING as PUBLISHING
from egup_trainer.output_folder import alone_in, appearing_together, copy_model, is_taken, refuse_finished
from egup_trainer.records.io import write_secrets

logger = logging.getLogger(__name__)

LIST_NAME = "egup_files.json"
"""The file in a checkpoint that lists the size and SHA-256 of all others. It is written last."""
STAGING = "_saving"
"""The folder in the output folder where a checkpoint is written. Its name is one that is never uploaded."""
_TRAINER_STATE = "trainer_state.json"
_NONE, _NOT_READ = -1, -2  # in place of the steps of a checkpoint: there is none, or this process did not look


class CheckpointingTrainer(Trainer):
    """A `transformers.Trainer` whose checkpoints appear at once, and which resumes from complete ones exactly.

    A subclass says what a checkpoint holds beside the weights (`training_state`), under which conditions the run is
    made (`find_conditions`), and what is written with a model (`write_card`).
    """

    args: RowTrainingConfig
    conditions: Conditions = Conditions()
    """The conditions of this run, found before its first step."""
    secrets: list[str]
    """The keys of the fingerprints of rows."""

    resumed_from: str | None = None
    """The checkpoint that `train` resumed from, or None if it started from the beginning."""
    saved_to: set[Path]
    """The folders that hold a model saved by this trainer."""
    is_saved = False
    """Whether the output folder holds more than `save_model` writes, so that an upload must not save the model."""
    _is_saving = False
    _hold: Any = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `transformers.Trainer` does.

        Args:
            resume_from_checkpoint: True resumes from the last complete checkpoint, or, with a warning, starts from the
                beginning if there are no checkpoints. A folder resumes from the checkpoint in it.
            args, kwargs: as in `transformers.Trainer.train`.

        Raises:
            StateError: the named checkpoint is incomplete, a checkpoint cannot be written, or another run is writing to
                the output folder.
        """
        self.conditions = self.find_conditions()
        with self._alone():
            self.resumed_from = self._checked(resume_from_checkpoint) if resume_from_checkpoint else None
            if not self.resumed_from and not self.args.overwrite_output_dir:
                self._refuse_finished()
            result = super().train(self.resumed_from, *args, **kwargs)
            self._hold_until_saved()
            return result

    def find_conditions(self) -> Conditions:
        """The conditions of the run that is about to begin."""
        raise NotImplementedError

    def training_state(self) -> dict[str, Tensor]:
        """The tensors that a resumed run needs beside weights and optimizer, the same on every process."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restores the tensors of a checkpoint, which are in main memory."""

    def write_card(self, folder: Path) -> None:
        """Writes the model's card into the folder of a saved model."""
        raise NotImplementedError

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # Trainer groups evaluation rows as it groups training rows, by lengths that it cannot read from tokenized rows.
        return None if self.args.world_size > 1 else SequentialSampler(eval_dataset)

    def _save_rng_state(self, output_dir: str) -> None:
        # Trainer calls it for each checkpoint before it removes old checkpoints and uploads anything.
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            save_state(self.training_state(), output_dir, self.conditions)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # Trainer calls it on every process before the first step of a resumed run.
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.load_training_state(load_state(checkpoint))

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with without_device_map(cast(nn.Module, self.model)):
            super()._load_from_checkpoint(*args, **kwargs)

    def _load_best_model(self) -> None:
        with without_device_map(cast(nn.Module, self.model)):
            super()._load_best_model()

    def _refuse_finished(self) -> None:
        """Stops all processes if the output folder holds a finished model that this trainer has not saved."""
        with self._stopping_together(is_taken(self.args.output_dir)):
            if self.args.should_save and Path(self.args.output_dir).resolve() not in self.saved_to:
                refuse_finished(self.args.output_dir)

    def _hold_until_saved(self) -> None:
        """Locks the output folder from `train` until `save_model`, or until the trainer is deleted."""
        if self.args.should_save and self._hold is None:
            held = ExitStack()
            held.enter_context(alone_in(self.args.output_dir))
            self._hold = weakref.finalize(self, held.close)

    def release_output_folder(self) -> None:
        """Unlocks the output folder for other runs."""
        if self._hold is not None:
            self._hold()
            self._hold = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model as `transformers.Trainer` does, with record, ledger and card. All files appear together.

        Args:
            output_dir: the folder; by default that of the run. The files of an earlier model there are removed once all
                new files are written.
        """
        if _internal_call and self.is_saved:
            return
        target = Path(output_dir or self.args.output_dir)
        if self._is_saving or target.parent.name == PUBLISHING:  # the caller lets it appear together with other files
            super().save_model(str(target), _internal_call=True)
            return
        with self.appearing_together(target) as stage, one_line_write_errors(target):
            super().save_model(str(stage), _internal_call=True)
            self.write_card(stage)
        if target.resolve() == Path(self.args.output_dir).resolve():
            self.release_output_folder()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    @contextmanager
    def appearing_together(self, target: Path) -> Iterator[Path]:
        """`appearing_together` of `output_folder`, for all processes of this trainer."""
        known, wait = target.resolve() in self.saved_to, self.accelerator.wait_for_everyone
        with appearing_together(target, self.args.should_save, wait, is_again=known) as stage:
            yield stage
            wait()
        self.saved_to.add(target.resolve())

    def _checked(self, wanted: str | Path | bool) -> str | None:
        """The checkpoint to resume from, the same on every process: complete, and of a run under the same conditions.

        One process per machine reads the files.
        """
        steps = _NOT_READ
        with self._stopping_together(_is_refused(wanted)):
            if self.is_local_process_zero():
                found = self._find(wanted)
                steps = _NONE if found is None else _steps_of(found)
        if wanted is not True:
            return str(wanted)
        known = self.accelerator.gather(torch.tensor([steps], device=self.accelerator.device))
        known = known[known != _NOT_READ].unique()
        if len(known) > 1:
            raise StateError(
                got=f"processes that find different checkpoints in {self.args.output_dir}",
                expected="a folder that all machines see",
                fix="set --output_dir to a shared one, or copy the checkpoints to each machine",
            )
        name = f"{PREFIX_CHECKPOINT_DIR}-{known.item()}"
        return None if known.item() == _NONE else str(Path(self.args.output_dir) / name)

    def _find(self, wanted: str | Path | bool) -> Path | None:
        if wanted is True:
            found = last_complete(Path(self.args.output_dir), (STATE_NAME,), warn=self.is_world_process_zero())
        else:
            found = Path(str(wanted))
            lacking = missing_from(found)
            if lacking:
                raise StateError(
                    got=f"the incomplete checkpoint {found}: {lacking}",
                    expected="all files that its run wrote",
                    fix="resume from another one, or from the last complete one (--resume_from_checkpoint true)",
                )
        if found is not None and self.is_world_process_zero():
            refuse_other_conditions(found, self.conditions)
        return found

    @contextmanager
    def _stopping_together(self, otherwise: StateError) -> Iterator[None]:
        """Raises on every process if one of them must stop: its own error there, and `otherwise` on the others."""
        refusal = None
        try:
            yield
        except StateError as error:
            refusal = error
        refused = torch.tensor([refusal is not None], device=self.accelerator.device)
        if self.accelerator.gather(refused).any():
            raise refusal or otherwise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Locks the output folder, or raises on every process."""
        with ExitStack() as held:
            with self._stopping_together(is_taken(self.args.output_dir)):
                held.enter_context(alone_in(self.args.output_dir) if self.args.should_save else nullcontext())
            yield

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Trainer begins an epoch even if a callback stops training as it begins.
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        # A checkpoint is written into a staging folder, which is then renamed.
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._is_saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint into a staging folder, renames it, removes old ones, and pushes it to the hub."""
        folder = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:  # removes what an interrupted run left behind
            shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
            self._publish(folder, name)
        except (OSError, RuntimeError, SafetensorError, StateError) as error:
            cause: Any = error.__cause__ if isinstance(error, StateError) else error
            if not is_of_the_disk(cause):
                raise
            shutil.rmtree(folder / STAGING, ignore_errors=True)
            raise _could_not_write(cause, folder, name) from error
        finally:
            self._is_saving = False
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder / name))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._is_saving:  # files in the folder are still being renamed
            return
        if self.args.should_save and self.args.hub_strategy != HubStrategy.END:
            # Trainer alone would copy the weights beside the record of an earlier model.
            folder = Path(self.args.output_dir)
            with appearing_together(folder, is_again=folder.resolve() in self.saved_to) as stage:
                copy_model(Path(checkpoint_folder), stage)
                write_secrets(stage, self.secrets)
            self.saved_to.add(folder.resolve())
        super()._push_from_checkpoint(checkpoint_folder)

    def _publish(self, folder: Path, name: str) -> None:
        staged, final, state = folder / STAGING / name, folder / name, self.state
        if state.best_model_checkpoint == str(staged):
            state.best_model_checkpoint = str(final)
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        state.save_to_json(str(staged / _TRAINER_STATE))  # with the final name of the folder
        write_list(staged)
        sync_folder(staged)
        shutil.rmtree(final, ignore_errors=True)  # of an earlier run in this folder
        staged.replace(final)
        shutil.rmtree(staged.parent, ignore_errors=True)
        later = [path for path in _checkpoints_in(folder) if _steps_of(path) > state.global_step]
        if self.args.overwrite_output_dir and self.resumed_from is None:  # they belong to the earlier run
            for path in later:
                shutil.rmtree(path, ignore_errors=True)
        remove_old(folder, state.global_step, self.args.save_total_limit, state.best_model_checkpoint)


def remove_old(folder: Path, step: int, limit: int | None, best: str | None) -> None:
    """Removes the checkpoints of a run with the fewest steps; the times when they were written do not matter.

    Args:
        step: the step of the last checkpoint. Checkpoints with more steps belong to another run and are kept.
        limit: how many are kept. The last one and the best one are always kept.
    """
    if not limit or limit < 0:
        return
    found = [path for path in _checkpoints_in(folder) if _steps_of(path) <= step]
    always = {found[0].name, *([] if best is None else [Path(best).name])}  # the folder may have another spelling now
    others = [path for path in found if path.name not in always]
    for path in others[max(0, limit - (len(found) - len(others))) :]:
        shutil.rmtree(path, ignore_errors=True)


def write_list(folder: Path) -> None:
    """Writes the list of a checkpoint's files, with size and SHA-256 of each, into the checkpoint."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LIST_NAME]
    facts = dict(zip(files, _facts_of(files), strict=True))
    listed = {path.relative_to(folder).as_posix(): fact for path, fact in facts.items()}
    write_file(folder / LIST_NAME, json.dumps(listed, indent=1, sort_keys=True) + "\n")


def missing_from(folder: Path, needed: Iterable[str] = ()) -> str | None:
    """What is wrong with an incomplete checkpoint, in a few words; None if it is complete.

    Args:
        needed: files that it must have, even if its list does not name them.
    """
    try:
        facts = json.loads((folder / LIST_NAME).read_text(encoding="utf-8"))
        listed = {name: (int(size), str(digest)) for name, (size, digest) in facts.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{LIST_NAME} is missing or incomplete"
    for name in {**dict.fromkeys(needed), **listed}:
        path = folder / name
        if name not in listed or not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != listed[name][0]:
            return f"{name} has {path.stat().st_size} of {listed[name][0]} bytes"
    found = _facts_of([folder / name for name in listed])
    changed = [name for name, facts in zip(listed, found, strict=True) if facts != listed[name]]
    return f"{changed[0]} has changed since it was written" if changed else None


def _facts_of(files: list[Path]) -> list[tuple[int, str]]:
    """Size and SHA-256 of each file, read in several threads."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda path: (path.stat().st_size, file_digest(path)), files))


def last_complete(folder: Path, needed: Iterable[str] = (), warn: bool = True) -> Path | None:
    """The complete checkpoint with the most steps; None if there are no checkpoints at all.

    Args:
        needed: files that a checkpoint must have.
        warn: whether to log the checkpoints that are skipped, and that there is none.

    Raises:
        StateError: there are checkpoints, and none of them is complete.
    """
    found = _checkpoints_in(folder)
    for checkpoint in found:
        lacking = missing_from(checkpoint, needed)
        if lacking is None:
            return checkpoint
        if warn:
            logger.warning("Skipping %s: %s.", checkpoint, lacking)
    if found:
        raise StateError(
            got=f"{len(found)} incomplete checkpoints in {folder}; of the last one, {missing_from(found[0], needed)}",
            expected="one that is complete",
            fix="move them away to start from the beginning",
        )
    if warn:
        logger.warning("There is no checkpoint in %s: starting from the beginning.", folder)
    return None


def _checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in an output folder, the one with the most steps first."""
    found = (path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir() and _steps_of(path) >= 0)
    return sorted(found, key=_steps_of, reverse=True)


def _steps_of(checkpoint: Path) -> int:
    steps = checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(steps) if steps.isdecimal() else -1


def _is_refused(wanted: str | Path | bool) -> StateError:
    return StateError(
        got=f"a checkpoint (resume_from_checkpoint={wanted}) that another process refuses",
        expected="one that all processes can resume from",
        fix="read what that process says",
    )


def _could_not_write(error: Exception, folder: Path, name: str) -> StateError:
    whole = next((path for path in _checkpoints_in(folder) if missing_from(path) is None), None)
    return StateError(
        got=f"{name} that could not be written to {folder}: {error}",
        expected="room for it, and the right to write",
        fix=f"make room, then resume from {whole}, which is complete" if whole else "make room, then start again",
    )
