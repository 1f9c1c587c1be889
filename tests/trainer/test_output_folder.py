"""What a run writes lands in its output folder, and nowhere else."""

from pathlib import Path

import pytest

from egup_trainer.errors import ConfigError
from egup_trainer.trainer.preparation import refuse_detours


@pytest.mark.parametrize("name", ["out/../model", "/tmp/a/../b", "./out/..", "../a/../b"])
def test_a_path_that_goes_back_is_refused(name):
    with pytest.raises(ConfigError, match="expected a path that goes one way; name the folder itself"):
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
    assert str(stop.value) == (
        f"got {link}, a link to {tmp_path / 'model.safetensors'}; expected an output folder whose files lie in it: "
        "links could have others overwritten; remove the link, or change --output_dir"
    )


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
