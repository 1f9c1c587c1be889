"""The choices that the sources leave open, measured on the demo: `python -m benchmarks.design_choices --seeds 0 1`.

Each variant changes one thing of the demo's `egup_clreg`. Writes one line per seed to
benchmarks/results/design_choices.jsonl, and a table of all seeds (mean, and the values one by one) beside it.
"""

import argparse
import time
from dataclasses import replace

from rich.console import Console

from benchmarks.tables import RESULTS, Line, read_table
from benchmarks.tofu_small import METHODS
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.demo.experiment import demo_experiment, results_document, run
from egup_trainer.losses.npo import NPO
from egup_trainer.losses.registry import register_forget_loss
from egup_trainer.records.facts import run_facts

TABLE = RESULTS / "design_choices.jsonl"
DEMO = METHODS["egup_clreg"]


class ClampedNPO(NPO):
    """NPO that does not accept negative efforts: the reading of method.md that was measured and not taken."""

    supports_negative_weight = False


VARIANTS = {
    "gradient_difference": METHODS["gradient_difference"],
    "as in the demo": DEMO,
    "proxy_match=mean": {**DEMO, "proxy_match": "mean"},
    "proxy_neighbors=1": {**DEMO, "proxy_neighbors": 1},
    "proxy_neighbors=8": {**DEMO, "proxy_neighbors": 8},
    "proxy_form=penalty": {**DEMO, "proxy_form": "penalty"},
    "proxy_temperature=0.5": {**DEMO, "proxy_temperature": 0.5},
    "no inter-sample weights": {**DEMO, "inter_entanglement": False},
    "no intra-sample weights": {**DEMO, "intra_entanglement": False},
    "intra_temperature=0.25": {**DEMO, "intra_temperature": 0.25},
    "intra_temperature=1": {**DEMO, "intra_temperature": 1.0},
    "no CLReg": {**DEMO, "clreg_weight": 0.0},
    "clreg_positives=views": {**DEMO, "clreg_positives": "views"},
    "feature_layer=0.25": {**DEMO, "feature_layer": 0.25},
    "feature_layer=0.75": {**DEMO, "feature_layer": 0.75},
    "cache_dim=32": {**DEMO, "cache_dim": 32},
    "npo": {**DEMO, "objective": "npo"},
    "npo, effort clamped at 0": {**DEMO, "objective": "npo_clamped"},
    "simnpo": {**DEMO, "objective": "simnpo"},
}


def write_table() -> None:
    """Writes means over seeds, with each seed's value, from the table of results."""
    documents = [line for _, line in sorted(read_table(TABLE).items())]
    names = [row["name"] for row in documents[0]["rows"]]
    lines = ["| variant | forget probability | retain probability |", "| --- | --- | --- |"]
    for name in names:
        rows = [next(row for row in document["rows"] if row["name"] == name) for document in documents]
        cells = []
        for metric in ("forget_probability", "retain_probability"):
            values = [row["metrics"][metric] for row in rows]
            cells.append(f"{sum(values) / len(values):.3g} ({', '.join(f'{value:.3g}' for value in values)})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    (RESULTS / "design_choices.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Runs the seeds and writes results and table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    quiet_libraries()
    register_forget_loss("npo_clamped", ClampedNPO)
    for seed in options.seeds:
        start = time.perf_counter()
        experiment = replace(demo_experiment(seed), methods=VARIANTS)
        results = run(experiment, Console().print)
        facts = run_facts(
            command=f"python -m benchmarks.design_choices --seeds {seed}",
            seconds=time.perf_counter() - start,
            settings=experiment.settings(),
        )
        Line(TABLE, f"seed{seed}").write(results_document(results, facts))
    write_table()


if __name__ == "__main__":
    main()
