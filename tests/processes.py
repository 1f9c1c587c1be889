"""Starts processes from one that has imported the package already: a fresh interpreter needs ten seconds for that."""

import gc
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
_PRELOADED = [
    "fixtures_trainer",
    "fixtures_evaluation",
    "peft",
    "transformers.models.llama.modeling_llama",
    "egup_trainer.cli.evaluate",
    "egup_trainer.cli.unlearn",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED)


def start_group(target: Callable[..., Any], *arguments: Any, processes: int, log: Path) -> list[BaseProcess]:
    """Starts `target(*arguments)` in processes that find each other as those of torchrun do; they print into `log`."""
    _start_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = []
    for rank in range(processes):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
        process = _CONTEXT.Process(target=_enter, args=(environment, log, target, arguments), daemon=False)
        process.start()
        group.append(process)
    return group


def join_group(group: list[BaseProcess], timeout: float = 300) -> int:
    """Waits for the end of a group; once one process fails, or the time is up, the others are ended.

    Returns:
        The first exit code that is not 0, or 0.
    """
    deadline = time.monotonic() + timeout
    while running := [process for process in group if process.exitcode is None]:
        connection.wait([process.sentinel for process in running], max(0, deadline - time.monotonic()))
        if time.monotonic() >= deadline or any(process.exitcode for process in group):
            for process in group:
                process.kill()
    return next((process.exitcode for process in group if process.exitcode), 0)


def run_group(target: Callable[..., Any], *arguments: Any, processes: int, log: Path) -> None:
    """Runs a group to its end; its processes must not fail."""
    code = join_group(start_group(target, *arguments, processes=processes, log=log))
    assert code == 0, log.read_text()[-3000:]


def _enter(environment: dict[str, str], log: Path, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    gc.freeze()
    target(*arguments)


def _start_server() -> None:
    """The server inherits its environment, which tells it where to import from."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), before or ""])
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
