"""Lambda fixed or learned by dual ascent, on the demo: `python -m benchmarks.dual_ascent --seed 0`.

Writes one line per seed to benchmarks/results/dual_ascent.jsonl: forget and retain probability at the end, and how far
past the boundary the forget rows were at most on the way (`highest_gap`, nats per token, means over four steps).
"""

import argparse
import time
from dataclasses import replace

from rich.console import Console

from benchmarks.tables import RESULTS, Line
from benchmarks.tofu_small import BOTH_ENTANGLEMENTS
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.demo.experiment import demo_experiment, measure, prepare, results_document, train_all
from egup_trainer.evaluation.metric import Metric
from egup_trainer.records.facts import run_facts

FIXED = {"objective": "grad_diff", **BOTH_ENTANGLEMENTS}
METHODS = {"fixed": FIXED} | {f"dual_rate={rate}": {**FIXED, "proxy_dual_rate": rate} for rate in (0.02, 0.1, 0.5)}


def main() -> None:
    """Runs one seed and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    quiet_libraries()
    console, start = Console(), time.perf_counter()
    experiment = replace(demo_experiment(options.seed), methods=METHODS)
    prepared, results = prepare(experiment), []
    for trained in train_all(experiment, prepared, console.print):
        found = measure(trained, prepared)
        gaps = [entry["boundary_gap"] for entry in trained.log_history if "boundary_gap" in entry]
        highest_gap = Metric(max(gaps, default=None), None)
        results.append(replace(found, metrics={**found.metrics, "highest_gap": highest_gap}))
        console.print(trained.name, results[-1].values)
    facts = run_facts(
        command=f"python -m benchmarks.dual_ascent --seed {options.seed}",
        seconds=time.perf_counter() - start,
        settings=experiment.settings(),
    )
    Line(RESULTS / "dual_ascent.jsonl", f"seed{options.seed}").write(results_document(results, facts))


if __name__ == "__main__":
    main()
