"""What the scan before training costs over one forward pass over its rows: `python -m benchmarks.speed.scan`.

Both go through the same batches, in turn, round after round: the forward pass takes logits at answer positions alone;
the scan also reads and projects features, keeps the most likely tokens of the retain rows, hashes weights and rows, and
writes its file. A third run finds that file. What should hold: at most 1.1.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.speed.report import RESULTS
from benchmarks.speed.rows import SpeedRows, read_rows
from benchmarks.speed.shapes import Tuning, make_model
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.components.feature_space import random_projection
from egup_trainer.components.scanning import ScanRequest, run_scan
from egup_trainer.data.collator import RowCollator
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows
from egup_trainer.records.facts import run_facts

BATCH, DIMENSIONS, TOP_K = 16, 256, 64


def compare_scan(shape: str, rows: SpeedRows, rounds: int) -> dict[str, Any]:
    """Seconds of each round of the forward pass, of the scan, and of a scan whose file is there; and median ratios."""
    model, accelerator = make_model(shape, Tuning.FULL), Accelerator(cpu=not torch.cuda.is_available())
    model = model.to(accelerator.device).eval()
    reader, collator = AnswerReader(model), RowCollator(rows.tokenizer)
    sets = {"forget": rows.forget, "retain": rows.retain, "proxy": rows.proxy}
    features: dict[str, Any] = {
        "with_features": True,
        "projection": random_projection(model.config.hidden_size, DIMENSIONS, seed=0),
    }
    requests = {
        name: ScanRequest(each, torch.arange(len(each)), top_k=TOP_K * (name == "retain"), **features)
        for name, each in sets.items()
    }
    options = {"batch_size": BATCH, "accelerator": accelerator, "collator": collator}
    scan = partial(run_scan, requests, model=model, reader=reader, progress=False, **options)
    found: dict[str, list[float]] = {"forward": [], "scan": [], "reused": []}
    for _ in range(rounds):
        found["forward"].append(
            _seconds(lambda: [score_rows(model, reader, each, **options) for each in sets.values()])
        )
        with TemporaryDirectory() as folder:
            for name in ("scan", "reused"):
                found[name].append(_seconds(partial(scan, folder=Path(folder))))
    ratios = {
        name: statistics.median(one / least for one, least in zip(found[name], found["forward"], strict=True))
        for name in ("scan", "reused")
    }
    return {"seconds": found, "scan_over_forward": ratios["scan"], "reused_over_forward": ratios["reused"]}


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measures, writes the results, and prints them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.scan", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--shape", default="llama_32k", help="Shape of the model.")
    parser.add_argument("--rows", type=int, default=100, help="Forget rows, and retain rows.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    quiet_libraries()
    found = compare_scan(options.shape, read_rows(options.data_dir, options.rows), options.rounds)
    line = Line(RESULTS / "scan.jsonl", "gpu" if torch.cuda.is_available() else "cpu")
    line.write({**found, "shape": options.shape, "rows": options.rows, "run": run_facts()})
    print(json.dumps({name: found[name] for name in ("scan_over_forward", "reused_over_forward")}))


if __name__ == "__main__":
    main()
