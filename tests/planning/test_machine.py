"""How much memory a plan may count on, in a container with a limit of its own."""

from types import SimpleNamespace

from egup_trainer.planning import job
from egup_trainer.planning.job import Machine


def test_files_that_the_system_keeps_in_memory_are_free(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_CGROUP", tmp_path)
    monkeypatch.setattr(job.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * 10**9))
    monkeypatch.setattr(job, "resident_memory", lambda: 10**9)
    assert Machine.of(use_cpu=True).memory == 65 * 10**9  # without a limit
    (tmp_path / "memory.max").write_text("16000000000\n")
    (tmp_path / "memory.current").write_text("15000000000\n")
    assert Machine.of(use_cpu=True).memory == 2 * 10**9
    (tmp_path / "memory.stat").write_text("anon 3000000000\ninactive_file 12000000000\nactive_file 1\n")
    assert Machine.of(use_cpu=True).memory == 14 * 10**9
