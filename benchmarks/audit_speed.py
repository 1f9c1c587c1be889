"""What a full `egup audit` takes: `python -m benchmarks.audit_speed --work_dir audit_work`.

All attacks with their default options, on the model before unlearning, the retrained model and the one that the default
method unlearned, one after the other as the command does it. The models are those of a seed of the study's world: a
Llama of 5 million weights with 60 forget, 160 retain and 60 holdout rows. Models that `benchmarks.resistance` left in
the folder are used again. Run it alone on the machine; `--report` prints the table.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import markdown, tables
from benchmarks.resistance import DEFAULT, LEARNING_RATE
from benchmarks.study import runs, world
from benchmarks.study.methods import SECOND, options_of
from benchmarks.study.work import SETS, Place, do_base
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.audit import ATTACKS
from egup_trainer.audit.attack import Finding
from egup_trainer.audit.audit import audit_model
from egup_trainer.audit.audit_options import AuditOptions
from egup_trainer.audit.budget import Budget
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.records.facts import run_facts

TABLE = tables.RESULTS / "audit_speed.jsonl"
SEED = 0
MODELS = (*SETS, DEFAULT)
"""The models that are attacked, in the order in which `egup audit` attacks them."""
OPTIONS = AuditOptions(progress=False)


@dataclass
class Times:
    """Seconds of the parts of a piece of work."""

    wall: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)
    """Those of all threads together."""

    @contextmanager
    def of(self, part: str) -> Any:
        """Within it, the part is done."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall[part] = round(time.perf_counter() - wall, 3)
        self.processor[part] = round(time.process_time() - processor, 3)


class Stopwatch(Budget):
    """A budget without a limit, which keeps how long each attack took on each model."""

    def __init__(self, names: Sequence[str]):
        super().__init__(minutes=1)  # which `run` does not ask for
        self._names = iter(names)
        self.times: dict[str, Times] = {}

    def begin_model(self) -> None:
        self._current = self.times[next(self._names)] = Times()

    def run(self, attack: str, attempt: Callable[[], Finding]) -> Finding:
        with self._current.of(attack):
            return attempt()


def make_models(place: Place) -> None:
    """Trains the models that are not there."""
    do_base(place)
    rows = place.rows(SEED)
    for name, sets in SETS.items():
        if not place.model(name, SEED).is_dir():
            world.make_model_of(place.base, sets, rows, SEED, place.model(name, SEED))
    if not place.model(DEFAULT, SEED).is_dir():
        folder, scans = place.model("before", SEED), place.work_dir / f"scan{SEED}"
        trainer = runs.unlearn(folder, options_of(SECOND), LEARNING_RATE, SEED, rows, scans)
        world.save(trainer.model, trainer.processing_class, place.model(DEFAULT, SEED))


def time_audit(place: Place, options: AuditOptions) -> dict[str, Any]:
    """How long the audit takes, in all and by attack, and what was not run."""
    rows, folders = place.rows(SEED), {name: str(place.model(name, SEED)) for name in MODELS}
    stopwatch, whole, found = Stopwatch(MODELS), Times(), {}
    with whole.of("whole"):
        tokenizer = load_tokenizer(folders[DEFAULT])
        for name in MODELS:
            model = load_model(folders[name])

            def load_before(model: Any = model, name: str = name) -> Any:
                return model if name == "before" else load_model(folders["before"])

            sets = (rows.forget, rows.retain, rows.holdout)
            beside = {"options": options, "load_before": load_before, "budget": stopwatch, **found}
            audit = audit_model(model, tokenizer, *sets, name=name, **beside)
            found[name] = audit.alone()
    return {
        "rows": {name: facts.num_rows for name, facts in audit.sets.items()},
        "settings": audit.settings,
        "threads": torch.get_num_threads(),
        "wall_seconds": {**whole.wall, **{name: each.wall for name, each in stopwatch.times.items()}},
        "processor_seconds": {**whole.processor, **{name: each.processor for name, each in stopwatch.times.items()}},
        "not_run": {attack: finding.reason for attack, finding in audit.findings.items() if finding.reason},
        "run": run_facts(),
    }


def table(line: dict[str, Any]) -> str:
    """Seconds of each attack, beside its declared cost. The totals of the last row include the time to load models."""
    walls, processors = ([line[kind][name] for name in MODELS] for kind in ("wall_seconds", "processor_seconds"))
    rows = [
        [attack, *(f"{each[attack]:.1f}" for each in walls), _sum(walls, attack), _sum(processors, attack), f"{cost:g}"]
        for attack, cost in ((attack, ATTACKS[attack].cost) for attack in walls[0])
    ]
    whole = [f"{line[kind]['whole']:.1f}" for kind in ("wall_seconds", "processor_seconds")]
    sums = [f"{sum(each.values()):.1f}" for each in walls]
    costs = sum(ATTACKS[attack].cost for attack in walls[0])
    heads = ["attack", *MODELS, "all three", "processor", "declared cost, one model"]
    return markdown.table(heads, [*rows, ["whole audit", *sums, *whole, f"{costs:g}"]])


def _sum(of_models: Sequence[dict[str, float]], attack: str) -> str:
    return f"{sum(each[attack] for each in of_models):.1f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes the results, and prints them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_speed", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("audit_work"), help="Where models are kept.")
    parser.add_argument("--max_rows", type=int, help="Rows of each set at most, to try it out (default: all).")
    parser.add_argument("--name", default="audit", help="Name of the line in the table of results.")
    parser.add_argument("--report", action="store_true", help="Only print the table.")
    options = parser.parse_args(argv)
    line = Line(TABLE, options.name)
    if not options.report:
        quiet_libraries()
        place = Place(options.data_dir, options.work_dir)
        make_models(place)
        line.write(time_audit(place, replace(OPTIONS, max_rows=options.max_rows)))
    print(table(line.read()))


if __name__ == "__main__":
    main()
