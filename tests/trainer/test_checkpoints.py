"""Checkpoints appear whole or not at all; a run goes on from the last whole one, alone in its folder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures_trainer import furthest, weights_of
from test_trainer import StopAt
from transformers import TrainerCallback

from egup_trainer import checkpointing
from egup_trainer.checkpointing import LIST_NAME, STAGING, last_complete, missing_from
from egup_trainer.errors import StateError
from egup_trainer.output_folder import LOCK_NAME, alone_in

STEPS = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}


@pytest.fixture
def cut(make_trainer):
    """The output folder of a run that was cut short after its fourth step of six."""
    trainer = make_trainer(callbacks=[StopAt(4)], **STEPS)
    trainer.train()
    return Path(trainer.args.output_dir)


@pytest.fixture
def whole(make_trainer, tmp_path):
    """The weights at the end of the run if it is not cut short."""
    trainer = make_trainer(output_dir=str(tmp_path / "uncut"), num_train_epochs=2)
    trainer.train()
    return weights_of(trainer)


def damage(checkpoint: Path, how: str) -> None:
    if how == "cut short":
        with (checkpoint / "optimizer.pt").open("r+b") as file:
            file.truncate(100)
    elif how == "without our state":
        (checkpoint / "egup_state.safetensors").unlink()
    elif how == "4 KB of zeros":
        with (checkpoint / "optimizer.pt").open("r+b") as file:
            file.write(bytes(4096))
    elif how == "one bit":
        with (checkpoint / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)[0]
            file.seek(-1, 2)
            file.write(bytes([last ^ 1]))
    elif how == "without a list":
        (checkpoint / LIST_NAME).unlink()
    else:
        (checkpoint / LIST_NAME).write_text('{"model.safetensors": [1')


DAMAGES = {
    "cut short": "optimizer.pt has 100 of {size} bytes",
    "4 KB of zeros": "optimizer.pt has changed since it was written",
    "one bit": "model.safetensors has changed since it was written",
    "without our state": "egup_state.safetensors is missing",
    "without a list": "egup_files.json is missing or incomplete",
    "with half a list": "egup_files.json is missing or incomplete",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(make_trainer, cut, whole, caplog, monkeypatch, how):
    size = (cut / "checkpoint-4" / "optimizer.pt").stat().st_size
    damage(cut / "checkpoint-4", how)
    resumed = make_trainer(**STEPS)
    monkeypatch.setattr("egup_trainer.trainer.run_scan", lambda *a, **k: pytest.fail("a resumed run must not scan"))
    resumed.train(resume_from_checkpoint=True)
    lacking = DAMAGES[how].format(size=size)
    assert f"Skipping {cut}/checkpoint-4: {lacking}." in caplog.text
    assert furthest(weights_of(resumed), whole) == 0


def test_a_damaged_checkpoint_that_is_named_is_refused(make_trainer, cut):
    damage(cut / "checkpoint-4", "without our state")
    with pytest.raises(StateError) as error:
        make_trainer().train(resume_from_checkpoint=str(cut / "checkpoint-4"))
    assert error.value.got == f"the incomplete checkpoint {cut}/checkpoint-4: egup_state.safetensors is missing"


def test_without_a_checkpoint_a_run_starts_at_the_beginning_and_says_so(make_trainer, whole, caplog):
    trainer = make_trainer(num_train_epochs=2)
    trainer.train(resume_from_checkpoint=True)
    assert f"There is no checkpoint in {trainer.args.output_dir}: starting from the beginning." in caplog.text
    assert furthest(weights_of(trainer), whole) == 0


def test_where_no_checkpoint_is_whole_nothing_is_started_and_nothing_lost(make_trainer, cut):
    for checkpoint in cut.glob("checkpoint-*"):
        damage(checkpoint, "without a list")
    with pytest.raises(StateError) as error:
        make_trainer(**STEPS).train(resume_from_checkpoint=True)
    assert (
        error.value.got
        == f"4 incomplete checkpoints in {cut}; of the last one, egup_files.json is missing or incomplete"
    )
    assert len(list(cut.glob("checkpoint-*"))) == 4


def test_a_checkpoint_of_the_model_alone_is_passed_over(make_trainer, cut, caplog):
    (cut / "checkpoint-4" / "egup_state.safetensors").unlink()
    checkpointing.write_list(cut / "checkpoint-4")
    make_trainer(**STEPS).train(resume_from_checkpoint=True)
    assert f"Skipping {cut}/checkpoint-4: egup_state.safetensors is missing." in caplog.text


def test_processes_that_find_different_checkpoints_all_stop(make_trainer, cut, monkeypatch):
    trainer = make_trainer(**STEPS)
    gathered = lambda mine: torch.cat([mine, mine if mine.dtype is torch.bool else mine * 0 - 1])  # noqa: E731
    monkeypatch.setattr(trainer.accelerator, "gather", gathered)
    with pytest.raises(StateError) as error:
        trainer.train(resume_from_checkpoint=True)
    assert error.value.got == f"processes that find different checkpoints in {cut}"


def test_a_refusal_of_the_first_process_stops_all(make_trainer, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(trainer.accelerator, "gather", lambda mine: torch.cat([mine, ~mine]))
    with pytest.raises(StateError, match="Got a run that is writing to"):
        trainer.train()


def test_where_the_file_system_has_no_locks_a_run_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with alone_in(str(tmp_path)):
        pass
    assert f"No lock can be had in {tmp_path} ([Errno 37] No locks available)" in caplog.text


def test_a_checkpoint_is_pushed_under_its_name_when_all_is_done(make_trainer, monkeypatch):
    pushed = []
    trainer = make_trainer(num_train_epochs=1, save_strategy="steps", save_steps=1, save_total_limit=1)
    monkeypatch.setattr(trainer.args, "push_to_hub", True)
    monkeypatch.setattr(
        "transformers.Trainer._push_from_checkpoint",
        lambda self, folder: pushed.append(
            (Path(folder).name, sorted(path.name for path in Path(folder).parent.iterdir()))
        ),
    )
    trainer.train()
    of_the_model = ["config.json", "egup_ledger.jsonl", "generation_config.json", "model.safetensors"]
    of_the_model += ["tokenizer.json", "tokenizer_config.json", "training_args.bin", "unlearning.json"]
    expected = [["_lock", "_run.json", "_scan", f"checkpoint-{step}", *of_the_model] for step in (1, 2, 3)]
    assert pushed == [(names[3], names) for names in expected]
    record = json.loads((Path(trainer.args.output_dir) / "unlearning.json").read_text())
    assert record["steps"] == 3  # weights are never beside the record of others


def test_a_disk_that_fills_up_at_the_last_file_is_told_like_any_other(make_trainer, monkeypatch):
    def fail(folder):
        raise OSError(28, "No space left on device")

    trainer = make_trainer(**STEPS)
    monkeypatch.setattr(checkpointing, "write_list", fail)
    with pytest.raises(StateError) as error:
        trainer.train()
    folder = Path(trainer.args.output_dir)
    assert error.value.got == (
        f"checkpoint-1 that could not be written to {folder}: [Errno 28] No space left on device"
    )
    assert not (folder / STAGING).exists()


def test_the_list_names_every_file(cut):
    checkpoint = cut / "checkpoint-4"
    listed = json.loads((checkpoint / LIST_NAME).read_text())
    assert set(listed) == {path.name for path in checkpoint.iterdir()} - {LIST_NAME}
    assert {"model.safetensors", "optimizer.pt", "egup_state.safetensors", "trainer_state.json"} <= set(listed)
    assert missing_from(checkpoint) is None


def test_checkpoints_are_ordered_by_their_steps(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / LIST_NAME).write_text("{}")
    assert last_complete(tmp_path) == tmp_path / "checkpoint-10"


class SeeFolder(TrainerCallback):
    """What lies in the output folder whenever a checkpoint has been saved."""

    def __init__(self):
        self.seen = []

    def on_save(self, args, state, control, **kwargs):
        self.seen.append(sorted(path.name for path in Path(args.output_dir).iterdir() if path.name != LOCK_NAME))


def test_old_checkpoints_go_when_the_new_one_is_there(make_trainer, monkeypatch):
    watch, lasting = SeeFolder(), []
    remove = checkpointing.remove_old
    monkeypatch.setattr(
        checkpointing,
        "remove_old",
        lambda folder, *rest: (lasting.append(last_complete(folder)), remove(folder, *rest)),
    )
    trainer = make_trainer(callbacks=[watch], save_total_limit=1, **STEPS)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    assert lasting == [folder / f"checkpoint-{step}" for step in range(1, 7)]
    assert watch.seen == [["_scan", f"checkpoint-{step}"] for step in range(1, 7)]


def test_old_checkpoints_are_those_with_fewer_steps_whatever_the_clock_says(make_trainer):
    class SetTheClockBack(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            when = 2e9 - 1e6 * state.global_step
            os.utime(Path(args.output_dir) / f"checkpoint-{state.global_step}", (when, when))

    trainer = make_trainer(callbacks=[SetTheClockBack()], save_total_limit=2, **STEPS)
    trainer.train()
    left = sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*"))
    assert left == ["checkpoint-5", "checkpoint-6"]


def test_the_best_checkpoint_is_known_by_the_name_that_it_keeps(make_trainer, tmp_path):
    from conftest import qa_rows

    options = {**STEPS, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    trainer = make_trainer(eval_dataset=qa_rows(20, 33), save_total_limit=2, **options)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == Path(trainer.args.output_dir)
    state = json.loads((best / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(best)
    assert missing_from(best) is None


FULL_DISK = """
import resource, sys
sys.path[:0] = {paths!r}
import conftest, signal
from egup_trainer import EGUPConfig, EGUPTrainer
from egup_trainer.errors import StateError
from transformers import TrainerCallback

class FillDisk(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:  # from now on no file grows beyond half of the model's
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))

tokenizer = conftest.make_tokenizer()
rows = conftest.qa_rows
config = EGUPConfig({out!r}, use_cpu=True, report_to="none", disable_tqdm=True, save_steps=1, learning_rate=1e-2,
                    per_device_train_batch_size=4, num_train_epochs=2, optim={optim!r}, logging_strategy="no")
trainer = EGUPTrainer(conftest.make_tiny_model(tokenizer), config, rows(0, 10), rows(20, 33), rows(40, 46),
                      processing_class=tokenizer, callbacks=[FillDisk()])
try:
    trainer.train()
except StateError as error:
    print(error)
"""


@pytest.mark.parametrize(("optim", "limit"), [("sgd", 60_000), ("adamw_torch", 250_000)], ids=["model", "optimizer"])
def test_where_a_checkpoint_cannot_be_written_the_one_before_it_is_named_and_serves(tmp_path, optim, limit):
    """Files may not grow beyond a limit, as on a full disk: the model's file fails, or the optimizer's."""
    tests = Path(__file__).resolve().parents[1]
    code = FULL_DISK.format(paths=[str(tests), str(tests.parent)], out=str(tmp_path / "out"), optim=optim, limit=limit)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    last = tmp_path / "out" / "checkpoint-2"
    assert done.stdout.strip().startswith(f"Got checkpoint-3 that could not be written to {tmp_path / 'out'}: ")
    assert f". Make room, then resume from {last}, which is complete" in done.stdout
    assert last_complete(tmp_path / "out") == last
    assert not (tmp_path / "out" / STAGING).exists()


def test_an_error_that_is_not_of_the_disk_is_left_as_it_is(make_trainer, monkeypatch):
    trainer = make_trainer(**STEPS)

    def fail(*args):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", fail)
    with pytest.raises(RuntimeError, match=r"^CUDA error: out of memory$"):
        trainer.train()


HOLD = """
from egup_trainer.output_folder import alone_in
with alone_in({!r}):
    print("held", flush=True)
    input()
"""


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_lets_go(make_trainer, tmp_path):
    folder = str(tmp_path / "out")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    trainer = make_trainer(output_dir=folder, num_train_epochs=1)
    with pytest.raises(StateError) as error:
        trainer.train()
    assert error.value.got == f"a run that is writing to {folder}"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    trainer.train()
    assert trainer.state.global_step == 3


def test_a_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), alone_in(str(tmp_path)):
        raise KeyboardInterrupt
    with alone_in(str(tmp_path)):
        pass


def test_the_best_checkpoint_stays_whatever_the_spelling_of_its_folder(tmp_path, monkeypatch):
    """As after a resume with another spelling of the output folder."""
    monkeypatch.chdir(tmp_path)
    for step in (10, 20, 30, 40):
        (tmp_path / f"checkpoint-{step}").mkdir()
    checkpointing.remove_old(tmp_path, 40, 2, "./checkpoint-10")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-40"]
