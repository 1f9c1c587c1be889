"""The demo's experiment on real TOFU rows: `python -m benchmarks.tofu_small`.

Six authors to forget, eighteen to keep, six never seen (20 rows each), from TOFU's `full` set (Maini et al. 2024, MIT
licence); a Llama of 2.3 million parameters trained from scratch, and its twin trained on the retain rows
alone. Writes one line per seed to benchmarks/results/tofu_small.jsonl, with the machine's facts, and a picture.
"""

import argparse
import time

from rich.console import Console

from benchmarks.tables import RESULTS, Line
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.data.sources import load_rows
from egup_trainer.demo.experiment import Experiment, results_document, run
from egup_trainer.demo.twins import ModelSize, Schedule
from egup_trainer.records.facts import run_facts
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.plots.outcome import write_picture
from egup_trainer.report.table import main_table, table_parts

ROWS_AN_AUTHOR = 20
AUTHORS = (6, 18, 6)
UNGUIDED = {"proxy_constraint": False}
BOTH_ENTANGLEMENTS = {"inter_entanglement": True, "intra_entanglement": True}
METHODS = {
    "gradient_difference": {"objective": "grad_diff", **UNGUIDED},
    "npo": {"objective": "npo", **UNGUIDED},
    "egup": {"objective": "grad_diff", **BOTH_ENTANGLEMENTS},
    "egup_clreg": {"objective": "grad_diff", **BOTH_ENTANGLEMENTS, "clreg_weight": 0.1},
}


def tofu_experiment(data_dir: str | None, authors: tuple[int, int, int], seed: int) -> Experiment:
    """Authors to forget, to keep and never seen, in the order of the `full` set from its first author on."""
    rows = [{"question": row.prompt[0].content, "answer": row.answer} for row in load_rows("tofu:full", data_dir)]
    ends = [ROWS_AN_AUTHOR * sum(authors[: place + 1]) for place in range(3)]
    return Experiment(
        forget=rows[: ends[0]],
        retain=rows[ends[0] : ends[1]],
        proxy=rows[ends[1] : ends[2]],
        size=ModelSize(hidden=192, layers=4, heads=4, vocabulary=2000),
        learning=Schedule(epochs=24, learning_rate=1e-3, batch_size=16),
        unlearning=Schedule(epochs=20, learning_rate=5e-4, batch_size=16),
        methods=METHODS,
        seed=seed,
    )


def main() -> None:
    """Runs one seed and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    quiet_libraries()
    console = Console()
    start = time.perf_counter()
    experiment = tofu_experiment(options.data_dir, AUTHORS, options.seed)
    results = run(experiment, console.print)
    facts = run_facts(
        command=f"python -m benchmarks.tofu_small --seed {options.seed}",
        seconds=time.perf_counter() - start,
        settings=experiment.settings(),
    )
    Line(RESULTS / "tofu_small.jsonl", f"seed{options.seed}").write(results_document(results, facts))
    comparison, title = Comparison.of(results[:-1], results[-1]), "Forgetting 6 of 24 TOFU authors"
    write_picture(RESULTS / f"tofu_small_seed{options.seed}.png", comparison, title)
    console.print(main_table(table_parts(comparison), title))


if __name__ == "__main__":
    main()
