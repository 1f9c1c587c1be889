"""Two processes end where one does: real processes, DDP over gloo."""

import json
import subprocess
import sys
from pathlib import Path

import conftest
import ddp_worker
import pytest
import torch
from processes import run_group


def launch(
    folder: Path, processes: int, batch: int, accumulation: int, resume: str = "", kind: str = "", forget: int = 10
) -> list[dict]:
    """Records of all processes of a run on so many forget rows."""
    folder.mkdir(exist_ok=True)
    options = (folder, batch, accumulation, resume, kind, forget)
    run_group(ddp_worker.main, *options, processes=processes, log=folder / "log")
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Records of 1 process with 1 x 8 rows a step, and of 2 processes with 2 x 2 rows each."""
    folder = tmp_path_factory.mktemp("ddp")
    return {
        "one": launch(folder / "one", 1, batch=8, accumulation=1)[0],
        "two": launch(folder / "two", 2, batch=2, accumulation=2),
        "folder": folder,
    }


def test_two_processes_are_really_two_and_wrapped(runs):
    assert [record["world_size"] for record in runs["two"]] == [2, 2]
    assert {record["wrapped"] for record in runs["two"]} == {"DistributedDataParallel"}
    assert runs["one"]["world_size"] == 1


def test_two_processes_end_with_the_weights_of_one(runs):
    one = runs["one"]["weights"]
    for record in runs["two"]:
        assert max((one[name] - record["weights"][name]).abs().max() for name in one) < 1e-6


@pytest.mark.parametrize(
    ("batch", "accumulation", "forget"),
    [
        pytest.param(4, 1, 10, id="4 x 1 x 2", marks=pytest.mark.slow),
        pytest.param(2, 2, 3, id="fewer rows than a step", marks=pytest.mark.slow),
        pytest.param(2, 2, 9, id="rows that two do not divide"),
        pytest.param(2, 2, 13, id="more rows that two do not divide", marks=pytest.mark.slow),
    ],
)
def test_other_cuts_and_numbers_of_rows_end_alike(tmp_path, batch, accumulation, forget):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, forget=forget)[0]["weights"]
    two = launch(tmp_path / "two", 2, batch, accumulation, forget=forget)
    assert {(record["world_size"], record["wrapped"]) for record in two} == {(2, "DistributedDataParallel")}
    for record in two:
        assert max((one[name] - record["weights"][name]).abs().max() for name in one) < 1e-6


def test_two_processes_that_move_weights_end_as_one(tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind="sharp")[0]
    for record in launch(tmp_path / "two", 2, batch=2, accumulation=2, kind="sharp"):
        assert max((one["weights"][name] - record["weights"][name]).abs().max() for name in one["weights"]) < 1e-6


@pytest.mark.parametrize("kind", ["expected", "expected base"], ids=["from proxies", "from a proxy model"])
def test_two_processes_that_read_expected_outputs_end_as_one(kind, tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind=kind)[0]
    two = launch(tmp_path / "two", 2, batch=2, accumulation=2, kind=kind)
    assert {(record["world_size"], record["wrapped"]) for record in two} == {(2, "DistributedDataParallel")}
    for record in two:
        assert max((one["weights"][name] - record["weights"][name]).abs().max() for name in one["weights"]) < 1e-6
        for name in ("expected_outputs.ids", "expected_outputs.logps"):
            torch.testing.assert_close(record["guide"][name], one["guide"][name], atol=1e-4, rtol=1e-4)


def test_all_processes_hold_the_same_cache_and_it_is_that_of_one(runs):
    first, second = (record["guide"] for record in runs["two"])
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, tensor in runs["one"]["guide"].items():
        torch.testing.assert_close(tensor, first[name], atol=2e-3, rtol=2e-3)


def test_logged_losses_are_those_of_the_whole_step(runs):
    for record in runs["two"][:1]:
        assert record["losses"] == pytest.approx(runs["one"]["losses"], rel=1e-4, abs=1e-4)


def test_processes_see_different_pairs_and_together_all(runs):
    first, second = ([pair for batch in record["batches"] for pair in batch] for record in runs["two"])
    real = [pair for pair in first + second if pair != (-1, -1)]
    assert sorted(real) == sorted(runs["two"][0]["pairs"][2])
    assert len({forget for forget, _ in real}) == len(real) == 10


def test_a_resumed_run_on_two_processes_is_exact(runs):
    checkpoint = runs["folder"] / "two" / "out" / "checkpoint-3"
    resumed = launch(runs["folder"] / "resumed", 2, batch=2, accumulation=2, resume=str(checkpoint))
    for record, whole in zip(resumed, runs["two"], strict=True):
        assert all(torch.equal(record["weights"][name], whole["weights"][name]) for name in whole["weights"])


@pytest.mark.slow
def test_torchrun_starts_the_command(base, tmp_path):
    words = ["--model_name_or_path", str(base), "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    words += ["--max_steps", "1", "--report_to", "none"]
    for name, span in {"forget": (0, 8), "retain": (20, 32), "proxy": (40, 46)}.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, conftest.qa_rows(*span))))
        words += [f"--{name}", str(path)]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*start, "-m", "egup_trainer.cli.main", "unlearn", *words], check=True, timeout=300)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_two_processes_forget_the_same_own_answers_as_one(tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind="samples")[0]
    two = launch(tmp_path / "two", 2, batch=2, accumulation=2, kind="samples")
    for record in two:
        assert record["pairs"] == one["pairs"]
        assert len(record["pairs"][0]) > 20  # of 10 rows
        assert max((one["weights"][name] - record["weights"][name]).abs().max() for name in one["weights"]) < 1e-6


def test_two_processes_choose_the_learning_rate_of_one(tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind="auto")[0]
    first, second = launch(tmp_path / "two", 2, batch=2, accumulation=2, kind="auto")
    assert torch.equal(first["guide"]["auto.state"], second["guide"]["auto.state"])
    assert first["verdict"] == second["verdict"]
    # A gradient near 0 may have either sign, by rounding.
    torch.testing.assert_close(first["guide"]["auto.state"], one["guide"]["auto.state"], rtol=0.02, atol=0.02)
