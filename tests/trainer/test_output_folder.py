"""What a run writes lands in its output folder, and nowhere else."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from egup_trainer.errors import ConfigError, StateError
from egup_trainer.files import UNFINISHED
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.output_folder import STAGING, alone_in
from egup_trainer.preparation import refuse_detours
from egup_trainer.records.io import read_ledger


@pytest.mark.parametrize("name", ["out/../model", "/tmp/a/../b", "./out/..", "../a/../b"])
def test_a_path_that_goes_back_is_refused(name):
    with pytest.raises(ConfigError, match=r"expected a path without it. Name the folder itself."):
        refuse_detours(Path(name))


@pytest.mark.parametrize("name", ["../out", "../../out", "./out", "out/a..b", "no/such/folder"])
def test_a_path_that_goes_one_way_is_fine(name):
    refuse_detours(Path(name))


def test_a_link_out_of_the_folder_is_refused_wherever_it_lies(tmp_path):
    (tmp_path / "out" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "model.safetensors").touch()
    link = tmp_path / "out" / "checkpoint-1" / "model.safetensors"
    link.symlink_to(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError) as stop:
        refuse_detours(tmp_path / "out")
    assert stop.value.got == f"{link}, a link to {tmp_path / 'model.safetensors'}"


def test_a_link_within_the_folder_and_a_link_to_it_are_fine(tmp_path):
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "b").symlink_to(tmp_path / "out" / "a")
    (tmp_path / "other").symlink_to(tmp_path / "out")
    refuse_detours(tmp_path / "out")
    refuse_detours(tmp_path / "other")


def test_a_trainer_refuses_before_it_writes(make_trainer, tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_scan").symlink_to(target)
    with pytest.raises(ConfigError, match="a link to"):
        make_trainer(output_dir=str(tmp_path / "out"))
    assert list(target.iterdir()) == []


# What a run saves appears together


def model_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "_"}


@pytest.fixture
def finished(make_trainer):
    """The output folder of a run that has been saved."""
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.save_model()
    return Path(trainer.args.output_dir)


def test_a_saved_model_comes_with_record_ledger_and_card_and_leaves_nothing_behind(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"model.safetensors", "config.json", "unlearning.json", "egup_ledger.jsonl", "README.md"} <= names
    assert {name for name in names if name.startswith("_")} == {"_run.json"}


def test_a_finished_folder_is_refused_before_a_step_and_as_it_was(finished, make_trainer):
    before = model_files(finished)
    trainer = make_trainer()
    with pytest.raises(StateError) as error:
        trainer.train()
    assert error.value.got == f"the output folder {finished}, which holds a finished model"
    with pytest.raises(StateError, match="holds a finished model"):
        make_trainer().train(resume_from_checkpoint=True)  # there is none to resume from
    assert trainer.state.global_step == 0
    assert model_files(finished) == before


def test_the_model_before_stays_until_the_new_one_is_there_and_its_records_are_kept(finished, make_trainer):
    before, ledger = model_files(finished), read_ledger(finished)
    (finished / "model-00001-of-00002.safetensors").touch()
    (finished / "notes.txt").write_text("mine")
    trainer = make_trainer(overwrite_output_dir=True, save_strategy="steps", save_steps=1)
    trainer.train()
    assert model_files(finished) == {**before, "model-00001-of-00002.safetensors": b"", "notes.txt": b"mine"}
    trainer.save_model()
    after = model_files(finished)
    assert after["model.safetensors"] != before["model.safetensors"]
    assert "model-00001-of-00002.safetensors" not in after
    assert after["notes.txt"] == b"mine"
    assert json.loads(after["unlearning.json"])["steps"] == 6
    assert read_ledger(finished / "_overwritten" / "1") == ledger
    trainer.train()  # the same trainer goes on in its own folder
    trainer.save_model()
    assert len(read_ledger(finished)) == 1
    assert [path.name for path in (finished / "_overwritten").iterdir()] == ["1"]


def test_kept_records_are_never_overwritten_even_if_some_were_deleted(finished, make_trainer):
    kept = finished / "_overwritten" / "2"
    kept.mkdir(parents=True)
    (kept / "unlearning.json").write_text("mine")
    trainer = make_trainer(overwrite_output_dir=True)
    trainer.train()
    trainer.save_model()
    assert (kept / "unlearning.json").read_text() == "mine"
    assert sorted(path.name for path in kept.parent.iterdir()) == ["2", "3"]


def test_a_model_that_is_unlearned_again_keeps_its_lines_however_often_it_is_saved(finished, make_trainer, tmp_path):
    again = make_trainer(str(finished), max_steps=1, output_dir=str(tmp_path / "again"))
    again.train()
    for _ in range(3):
        again.save_model()
    first, second = read_ledger(tmp_path / "again")
    assert [first] == read_ledger(finished)
    assert second.fingerprint != first.fingerprint  # each run's is keyed by a secret of its own


def test_an_error_while_saving_leaves_the_folder_as_it_was(finished, make_trainer, monkeypatch):
    before = model_files(finished)
    trainer = make_trainer(overwrite_output_dir=True, max_steps=1)
    trainer.train()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("egup_trainer.publishing.write_ledger", fail)
    with pytest.raises(StateError, match="cannot be written \\(No space left on device\\)"):
        trainer.save_model()
    assert model_files(finished) == before
    assert not (finished / STAGING).exists()


@pytest.mark.parametrize("renames", range(1, 20, 3))
def test_while_files_take_their_places_the_folder_says_so(finished, make_trainer, monkeypatch, renames):
    """A kill between two renames: nobody loads the mixture, and the next run replaces it."""
    trainer = make_trainer(overwrite_output_dir=True, max_steps=1)
    trainer.train()
    rename, count = Path.rename, itertools.count()

    def die(self, target):
        if next(count) == renames:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            trainer.save_model()
    for read in (load_model, load_tokenizer, read_ledger):
        with pytest.raises(StateError, match=f"Got {finished}, where a run has not ended"):
            read(str(finished))
    with pytest.raises((OSError, ValueError), match=r"config\.json"):  # any library finds no model
        AutoModelForCausalLM.from_pretrained(finished)
    again = make_trainer(max_steps=1)  # an unfinished folder needs no --overwrite_output_dir
    again.train()
    again.save_model()
    assert load_model(str(finished)).config.model_type == "llama"
    assert not (finished / UNFINISHED).exists()


def test_another_run_is_kept_out_between_training_and_saving(make_trainer, tmp_path):
    code = "import sys; from egup_trainer.output_folder import alone_in\nwith alone_in(sys.argv[1]): pass"

    def others() -> str:
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
        return done.stderr.strip().rpartition("\n")[2]

    trainer = make_trainer(max_steps=1)
    trainer.train()
    assert f"Got a run that is writing to {tmp_path / 'out'}, but expected one run at a time in each folder" in others()
    trainer.save_model()
    assert others() == ""
    assert not (tmp_path / "out" / "_lock").exists()


def test_of_many_processes_one_at_a_time_holds_a_folder(tmp_path):
    """Each counts up in a file while it holds the folder; the lock file is removed and made again all the time."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom egup_trainer.errors import StateError\n"
        "from egup_trainer.output_folder import alone_in\nfile = Path(sys.argv[1], 'count')\n"
        "done = 0\nwhile done < 100:\n"
        "    try:\n"
        "        with alone_in(sys.argv[1]):\n"
        "            number = int(file.read_text())\n            time.sleep(0.0005)\n"
        "            file.write_text(str(number + 1))\n            done += 1\n"
        "    except StateError:\n        pass\n"
    )
    (tmp_path / "count").write_text("0")
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "300"


def test_a_refused_run_leaves_no_folder(tmp_path):
    with pytest.raises(KeyError), alone_in(tmp_path / "new"):
        raise KeyError
    assert not (tmp_path / "new").exists()
