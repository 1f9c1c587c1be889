"""`python tests/faults/kills.py`: kills runs at random moments and compares how they end, bit by bit.

20 kills by default, dealt out to six kinds of runs; some of them kill a run twice. Then commands are killed while they
save, merge, evaluate or are refused, in a folder that holds a finished model: what a later command sees there is whole,
or says that it is not.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
import conftest  # noqa: E402
import kill_worker  # noqa: E402
from processes import join_group, start_group  # noqa: E402

from egup_trainer.evaluation.evaluation import read_evaluation  # noqa: E402

KINDS = ("full", "two processes", "workers", "lora", "four bits", "early stop")


def run(folder: Path, kind: str, kill_after: float | None = None) -> float | None:
    """Runs to the end, or kills the run so many seconds after its first step began.

    Returns:
        Seconds from the first step to the end, or None if the run was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = (kill_worker.make_bases, folder) if kind == "bases" else (kill_worker.main, folder, kind)
    started = folder / "started"
    started.unlink(missing_ok=True)
    group = start_group(*work, processes=2 if kind == "two processes" else 1, log=folder / "log")
    while not started.exists() and any(process.is_alive() for process in group):
        time.sleep(0.005)
    begin = time.perf_counter()
    ends = [process.sentinel for process in group]
    if kill_after is not None and len(connection.wait(ends, kill_after)) < len(group):
        for process in group:
            process.kill()
            process.join()
        return None
    if join_group(group):
        raise RuntimeError((folder / "log").read_text()[-3000:])
    return time.perf_counter() - begin


def ending(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and training state at the end of a run."""
    return torch.load(folder / "end.pt")


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not the same bit by bit."""
    assert first.keys() == second.keys()
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def kill_and_resume(folder: Path, kind: str, moments: list[float]) -> list[Path]:
    """Kills a run at each moment in turn, then lets it end.

    Returns:
        The checkpoints that there were after each kill.
    """
    left = []
    for moment in moments:
        run(folder, kind, kill_after=moment)
        left += sorted(folder.glob("checkpoint-*"))
    run(folder, kind)
    return left


ROWS = {"forget": (0, 6), "retain": (20, 26), "proxy": (40, 46)}
PLACES = ("final save", "merge", "evaluation", "refused run")


def egup(words: list[str], waits_for: Path | None = None, kill_after: float = 0.0) -> tuple[int, str]:
    """Runs a command, or kills it so long after a path has appeared; its exit code and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "egup_trainer.cli.main", *words]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        if waits_for is not None:
            while process.poll() is None and not waits_for.exists():
                time.sleep(0.001)
            time.sleep(kill_after)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        printed = process.communicate()[0]
    return process.returncode, printed


def words_of(folder: Path, place: str) -> list[str]:
    """The command that is killed at that place; all write to the same folder."""
    sources = [word for name in ROWS for word in (f"--{name}", str(folder / f"{name}.jsonl"))]
    quiet = ["--use_cpu", "--disable_tqdm", "true"]
    if place == "evaluation":
        words = ["--model_name_or_path", str(folder / "out"), "--suite", "custom", "--max_new_tokens", "4"]
        return ["evaluate", *words, *sources[:4], "--output", str(folder / "results.json"), *quiet]
    words = ["--model_name_or_path", str(folder / "taught"), "--output_dir", str(folder / "out"), "--max_steps", "2"]
    words += ["--report_to", "none", "--save_strategy", "no", *sources, *quiet]
    words += ["--use_peft", "--lora_target_modules", "all-linear", "--merge"] if place == "merge" else []
    return ["unlearn", *words, *([] if place == "refused run" else ["--overwrite_output_dir"])]


def seen(folder: Path) -> str:
    """What later commands see: "whole", "unfinished", or what is wrong."""
    out = folder / "out"
    models = [out, *([out / "merged"] if (out / "merged").exists() else [])]
    for model in models:
        code, printed = egup(["verify", str(out / "_run.json"), "--model", str(model), "--use_cpu"])
        if "where a run has not ended" in printed:
            return "unfinished"
        if code:
            return f"verify: {printed.strip().splitlines()[-1]}"
    code, printed = egup(["ledger", str(out)])
    if code:
        return f"ledger: {printed.strip().splitlines()[-1]}"
    results = folder / "results.json"
    return "whole" if not results.exists() or read_evaluation(results) else "no results"


def kill_commands(folder: Path, kills: int, draw: random.Random) -> int:
    """Kills a command at each place in turn; the number of those after which something was wrong."""
    conftest.make_tokenizer().save_pretrained(folder / "taught")
    for name, span in ROWS.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, conftest.qa_rows(*span))))
    code, printed = egup(words_of(folder, "merge"))
    assert code == 0, printed
    watched = {"final save": "out/_publishing", "merge": "out/_publishing/out/merged", "evaluation": "results.json"}
    longest = {"final save": 1.5, "merge": 3.0, "evaluation": 0.2, "refused run": 1.0}
    wrong = 0
    for number in range(kills):
        place = PLACES[number % len(PLACES)]
        moment = draw.uniform(0, longest[place])
        egup(words_of(folder, place), folder / watched.get(place, "out/_lock"), moment)
        found = seen(folder)
        wrong += found not in ("whole", "unfinished")
        print(f"{place}: killed {moment:.2f} s after it began: {found}", flush=True)
        if found == "unfinished":
            assert egup(words_of(folder, "merge"))[0] == 0
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--command_kills", type=int, default=12, help="of commands, at the places above")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, wrong = random.Random(options.seed), 0
    with TemporaryDirectory() as folder:
        whole = {}
        run(Path(folder), "bases")
        for number in range(options.kills):
            kind = KINDS[number % len(KINDS)]
            if kind not in whole:
                seconds = run(Path(folder) / kind / "whole", kind)
                whole[kind] = seconds, ending(Path(folder) / kind / "whole")
            seconds, expected = whole[kind]
            moments = [draw.uniform(0, seconds) for _ in range(1 + number % 2)]
            cut = Path(folder) / kind / str(number)
            left = kill_and_resume(cut, kind, moments)
            names = differing(expected, ending(cut))
            wrong += bool(names)
            shown = ", ".join(f"{moment:.2f}" for moment in moments)
            print(f"{kind}: killed at {shown} of {seconds:.2f} s, {len(left)} checkpoints left: ", end="")
            print(f"{len(names)} tensors differ" if names else "the same", flush=True)
        broken = kill_commands(Path(folder), options.command_kills, draw)
    print(f"{options.kills - wrong} of {options.kills} end as if they had not been killed")
    told = options.command_kills - broken
    print(f"after {told} of {options.command_kills} killed commands, what is there is whole or says that it is not")
    sys.exit(bool(wrong or broken))


if __name__ == "__main__":
    main()
