"""`egup demo`: invented people, a small model and its retrained twin, in a few minutes, with no network."""

import argparse
import os
import time
from pathlib import Path


def main(argv: list[str]) -> None:
    """Runs the demo; prints a table and writes results.json and comparison.png."""
    parser = argparse.ArgumentParser(
        prog="egup demo",
        description="Trains a small model on invented people, unlearns some of them by plain gradient difference and "
        "by EGUP + CLReg, and compares both with a model that never saw them. No network, no download.",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for results.json and comparison.png.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of people, weights and orders.")
    options = parser.parse_args(argv)

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one process trains on one GPU at most
    from rich.console import Console

    from egup_trainer.cli.common import quiet_libraries
    from egup_trainer.demo import experiment as experiments
    from egup_trainer.demo.settings import demo_experiment
    from egup_trainer.report.comparison import comparison_table, plot_comparison
    from egup_trainer.report.run_record import run_facts, write_results

    quiet_libraries()
    console = Console()
    start = time.perf_counter()
    experiment = demo_experiment(options.seed)
    rows = experiments.run(experiment, lambda text: console.print(f"[bold]{text}[/bold]"))
    facts = run_facts(command="egup demo", seconds=time.perf_counter() - start, settings=experiment.settings())
    write_results(options.output_dir / "results.json", rows, facts)
    title = "Forgetting 10 of 40 invented people"
    plot_comparison(rows, options.output_dir / "comparison.png", title)
    console.print(comparison_table(rows, title))
    console.print(f"Written to {options.output_dir}: results.json, comparison.png ({facts['seconds']:.0f} s)")
