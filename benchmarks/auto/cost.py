"""What choosing by itself costs: `egup unlearn` without flags, and once more with the flags that it chose."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from egup_trainer.components.expected_outputs import EXAMPLE_SHARE
from egup_trainer.records.facts import run_facts


def cost_of_auto(words: list[str]) -> dict[str, Any]:
    """Processor seconds and peak memory of a command in a process of its own: with auto, and with known flags.

    Known flags are the learning rate that auto chose, and as many steps. What else auto does is then off: the range
    test, measuring at the end of epochs, and reading rows after examples. A third run reads them, too, as
    somebody would who knows that it helps: `--example_share` as auto has it.

    Args:
        words: of `egup unlearn`, without `--output_dir` and without a learning rate.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "auto"
        auto = _measured([*words, "--output_dir", str(folder)])
        record = json.loads((folder / "unlearning.json").read_text(encoding="utf-8"))
        chosen = {"learning_rate": record["options"]["learning_rate"], "max_steps": record["steps"]}
        flags = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
        known = _measured([*words, "--output_dir", str(Path(scratch) / "known"), *flags])
        flags += ["--example_share", str(EXAMPLE_SHARE)]
        examples = _measured([*words, "--output_dir", str(Path(scratch) / "examples"), *flags])
    return {"auto": auto, "known": known, "examples": examples, "chosen": chosen, "run": run_facts()}


def _measured(words: list[str]) -> dict[str, float]:
    """Processor seconds, and peak memory in GB, of a command.

    Raises:
        RuntimeError: it did not run to its end.
    """
    with TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "egup_trainer", *words]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 3):  # forgotten, or another verdict
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.read()[-2000:]}")
    kilobytes = used.ru_maxrss * 1024 / 1000  # the system counts in units of 1024 bytes
    return {"cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "gigabytes": round(kilobytes / 1e6, 3)}
