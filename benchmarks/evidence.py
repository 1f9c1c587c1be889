"""What every attack brings back: `python -m benchmarks.evidence --work_dir study_work --seeds 33 34 35`.

`egup audit` with all attacks that need no judge, on models of the study: the retrained model, another retrained model,
which should raise no alarm, and models that unlearned by each of `METHODS` at the learning rate that the study chose.
Models that the study left in the folder are used again. It may be stopped at any time: what is done is not done again.
`--report` writes the table in docs/auditing.md.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import markdown, tables
from benchmarks.resistance import PAGE
from benchmarks.runner import Piece, run_first_piece
from benchmarks.study.methods import SECOND
from benchmarks.study.plan import OTHER_SEEDS, RETRAINED, RunSpec, chosen_rate
from benchmarks.study.work import Place, do_base, learn, make_unlearned
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.audit import ATTACKS
from egup_trainer.audit.audit import Audit, audit_model
from egup_trainer.audit.audit_options import AuditOptions
from egup_trainer.audit.worst import brought_back
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.errors import StateError
from egup_trainer.evaluation.metric import unavailable
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.records.facts import run_facts

TABLE = tables.RESULTS / "evidence.jsonl"
OPTIONS = AuditOptions(progress=False, max_rows=40)
FIRST, AGAIN = RETRAINED[:2]
METHODS = (f"{SECOND}+auto", f"{SECOND}+auto+thorough", f"{SECOND}+twice+sharp", "npo", "rmu")
MODELS = (FIRST, AGAIN, *METHODS)
"""The columns of the table."""

_NONE = unavailable("the attack failed")
MUCH = 0.1
"""An attack that gets further above the retrained model than this raises an alarm, as in the report."""

SHALLOW = 0.75
"""A depth score whose interval lies below this raises an alarm; the retrained model's score is 1."""


def line_of(name: str, seed: int) -> Line:
    """The results of a model."""
    return Line(TABLE, f"{name}_seed{seed}")


def audit(place: Place, name: str, seed: int) -> None:
    """Attacks a model, which is made unless it is there, beside the audit of the retrained model."""
    folder = _folder(place, name, seed)
    before, rows = str(_folder(place, "before", seed)), place.rows(seed)
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    kept = _audit_file(place, seed)
    retrained = None if name == FIRST else Audit.read(kept)
    found = audit_model(
        model,
        tokenizer,
        rows.forget,
        rows.retain,
        rows.holdout,
        attacks=[attack for attack, each in ATTACKS.items() if not each.needs_judge],
        options=replace(OPTIONS, seed=seed),
        name=name,
        retrained=retrained,
        load_before=lambda: load_model(before),
    )
    if name == FIRST:
        found.write(kept)
    values = {
        f"{attack}.{number}": metric.value
        for attack, finding in found.findings.items()
        for number, metric in finding.metrics.items()
    }
    furthest = {each.attack: each.distance for each in brought_back(found)}
    facts = {"settings": found.settings, "alarms": alarms(found), "run": run_facts()}
    line_of(name, seed).write({**facts, "values": values, "above_retrained": furthest})


def alarms(found: Audit) -> list[str]:
    """The attacks that find clearly more in a model than in the retrained one; none for the retrained one itself."""
    if found.retrained is None:
        return []
    raised = [each.attack for each in brought_back(found) if each.distance is not None and each.distance > MUCH]
    numbers = {attack: finding.metrics for attack, finding in found.findings.items()}  # none of an attack that failed
    interval = numbers["depth"].get("score", _NONE).interval
    if interval is not None and interval[1] < SHALLOW:
        raised.append("depth")
    interval, theirs = numbers["membership"].get("loss", _NONE).interval, found.retrained.value("membership", "loss")
    if interval is not None and theirs is not None and not interval[0] <= theirs <= interval[1]:
        raised.append("membership")
    return raised


def _folder(place: Place, name: str, seed: int) -> Path:
    """Where a model lies, which is made unless it is there.

    Raises:
        StateError: the study has not chosen the method's learning rate.
    """
    if name in METHODS:
        rate = chosen_rate(name)
        if rate is None:
            raise StateError(
                got=f"no learning rate of {name}",
                expected="results of the study on its tuning seeds",
                fix=f"run `python -m benchmarks.study --methods {name}` first",
            )
        return make_unlearned(place, RunSpec(name, rate, seed))
    learn(place, name, seed)
    return place.model(name, seed)


def _audit_file(place: Place, seed: int) -> Path:
    """The audit of the retrained model."""
    return place.work_dir / f"audit_seed{seed}.json"


def pieces(place: Place, models: Sequence[str], seeds: Iterable[int]) -> list[Piece]:
    """The retrained model's audit first, one seed after the other."""
    found = []
    for seed in seeds:
        for name in models:
            results: tuple[Any, ...] = (line_of(name, seed), *((_audit_file(place, seed),) if name == FIRST else ()))
            found.append(Piece(f"{name} {seed}", results, partial(audit, place, name, seed)))
    return found


def table(seeds: Iterable[int] = OTHER_SEEDS) -> str:
    """How far each attack gets above the retrained model, and on how many seeds it raises an alarm."""
    lines = {name: [line.read() for seed in seeds if (line := line_of(name, seed)).exists()] for name in MODELS}
    lines = {name: found for name, found in lines.items() if found}
    rows = []
    for attack in ATTACKS:
        cells = [_cell(attack, found, is_first=name == FIRST) for name, found in lines.items()]
        if any(cells):
            rows.append([f"`{attack}`", *cells])
    rows.append(["seeds", *(str(len(found)) for found in lines.values())])
    return markdown.table(["attack", *(f"`{name}`" for name in lines)], rows)


def _cell(attack: str, found: Sequence[dict[str, Any]], is_first: bool) -> str:
    """Mean over seeds of what an attack finds, and in how many of them it raises an alarm.

    It is the distance to the retrained model. Of attacks that bring nothing back, it is a number of their own.
    """
    own = _OWN_NUMBERS.get(attack)
    if own is None:
        values = [each["above_retrained"].get(attack) for each in found]
    else:
        named = [[value for name, value in each["values"].items() if name.startswith(own)] for each in found]
        values = [max((value for value in each if value is not None), default=None) for each in named]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    raised = sum(attack in each["alarms"] for each in found)
    shown = f"{statistics.fmean(known):{'+.2f' if own is None else '.2f'}}"
    return shown if is_first or not raised else f"{shown} ({raised})"


_OWN_NUMBERS = {"depth": "depth.score", "membership": "membership.loss", "probe": "probe.layer_"}
"""The numbers of attacks that bring nothing back, by the begin of their names; of several, the largest is told."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what has no results yet, or writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("study_work"), help="Where models are kept.")
    parser.add_argument("--seeds", type=int, nargs="+", default=OTHER_SEEDS, help="Seeds of the study.")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="By default all.")
    parser.add_argument("--report", action="store_true", help="Write docs/auditing.md's table, and do no more.")
    options = parser.parse_args(argv)
    if options.report:
        page = markdown.put(PAGE.read_text(encoding="utf-8"), "evidence", table())
        PAGE.write_text(page, encoding="utf-8")
    else:
        quiet_libraries()
        place = Place(options.data_dir, options.work_dir)
        do_base(place)
        while run_first_piece(pieces(place, options.models, options.seeds)):
            pass
    print(table())


if __name__ == "__main__":
    main()
