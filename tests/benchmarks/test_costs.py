"""What the smaller benchmarks compute, and that the launch files are ones that accelerate reads."""

from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from benchmarks.pretrained.likely import TOP_K, errors
from benchmarks.speed import load
from benchmarks.speed.estimate import Cluster, Job
from benchmarks.speed.report import AIMS, QUICK_RESULTS, quick_table

LAUNCH_FILES = sorted((Path(__file__).parents[2] / "accelerate_configs").glob("*.yaml"))


def test_more_likely_tokens_see_more_and_all_see_everything():
    before, now = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(0))
    found = errors(before, now)
    seen = [found[k]["seen"] / found[k]["exact"] for k in TOP_K]
    assert seen == sorted(seen)
    assert 0 < seen[0] < 0.9
    assert seen[-1] == pytest.approx(1, abs=1e-5)  # 256 of 40
    assert found[TOP_K[0]]["missed"] > 0.01
    assert found[TOP_K[-1]]["missed"] == pytest.approx(0, abs=1e-8)


def test_the_estimate_by_hand():
    machine, machines = Cluster(8), Cluster(64)
    assert Job().seconds_of_computing(machine) == pytest.approx(6 * 70e9 * 16 * 512 / 4e14)
    assert Job().seconds_of_sending(machine) == pytest.approx(7 / 8 * 6 * 70e9 / 370e9)
    assert Job(adapter=2e8).seconds_of_sending(machines) == pytest.approx(63 / 64 * (4 * 70e9 + 4e8) / 50e9)
    assert Job().gigabytes(machine) == 140
    assert Job().bytes_of_ours() == 16 * (8192 + 16) * 4


def test_the_headline_table_has_every_aim():
    assert QUICK_RESULTS.exists()
    names = [line.split("`")[1] for line in quick_table().splitlines()[2:]]
    assert names[: len(AIMS)] == list(AIMS)


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_accelerate_reads_the_launch_files(path):
    config = load_config_from_file(str(path))
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}[path.stem]
    assert config.distributed_type.value == kind
    assert config.num_processes == 8
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2


def test_there_is_a_launch_file_for_each_engine():
    assert [path.stem for path in LAUNCH_FILES] == ["ddp", "fsdp2", "zero2", "zero3"]


def test_the_files_of_a_run_are_as_large_as_counted():
    found = load.load_of(300, steps=2)
    assert (found["rows"], found["steps"]) == (300, 2)
    assert found["scan_mb"] == pytest.approx(found["scan_counted_mb"], rel=0.01)
    assert found["state_mb"] == pytest.approx(found["state_counted_mb"], rel=0.01)
    assert 0.1 < found["peak_memory_gb"] < 10
