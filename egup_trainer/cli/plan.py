"""`egup plan`: what `egup unlearn` with the same flags will take in memory and time, before anything is trained."""

from dataclasses import dataclass, field
from typing import Any

from egup_trainer.cli.common import one_line_errors, parse, quiet_libraries
from egup_trainer.cli.proxy import AUTO
from egup_trainer.cli.unlearn import RowArguments, check_flags
from egup_trainer.errors import check_range


@dataclass
class PlanArguments(RowArguments):
    """The flags of `egup unlearn`, and two of its own."""

    measure_steps: int = field(
        default=2,
        metadata={"help": "Steps to take, in a folder that is removed again, for the time they take; 0 takes none."},
    )
    memory_gb: float | None = field(
        default=None,
        metadata={
            "help": "Ask for a GPU with so many free GB (10^9 bytes); with --use_cpu, a machine. By default this one."
        },
    )


def main(argv: list[str]) -> None:
    """Prints weights, memory by part and phase, steps, time, and what would make it fit."""
    quiet_libraries()
    from trl import ModelConfig

    from egup_trainer.trainer.config import EGUPConfig

    plan_args, config, model_config = parse("plan", [PlanArguments, EGUPConfig, ModelConfig], argv)
    check_flags(plan_args, config, model_config)
    check_range(plan_args, ("measure_steps",), low=0, whole=True)
    check_range(plan_args, ("memory_gb",), low=0, low_is_allowed=False)
    from egup_trainer.planning.alternatives import changes_that_fit
    from egup_trainer.planning.rehearsal import measure_steps

    with one_line_errors():
        job, plan = estimate(plan_args, config, model_config)
        changes = [] if plan.fits(job.machine.memory) else changes_that_fit(job, model_config)
        is_here = plan_args.memory_gb is None and plan.peak <= job.machine.memory
        measured = measure_steps(job, plan_args.measure_steps) if plan_args.measure_steps and is_here else None
    _print(job, plan, changes)
    _print_lines(_lines(job, plan, measured, plan_args))


def estimate(plan_args: PlanArguments, config: Any, model_config: Any) -> tuple[Any, Any]:
    """The job, and its plan."""
    from dataclasses import replace

    import egup_trainer.cli.run_file
    import egup_trainer.evaluation.callback  # noqa: F401  what a run imports, so that its libraries are measured, too
    from egup_trainer.planning.job import make_job
    from egup_trainer.planning.plan import make_plan
    from egup_trainer.planning.rehearsal import measure_libraries

    job = make_job(plan_args, config, model_config, stand_in=plan_args.proxy == AUTO)
    job = replace(job, libraries=measure_libraries(job))
    return job, make_plan(job)


def _print(job: Any, plan: Any, changes: list[Any]) -> None:
    """A table of parts by phase, then one of changes that would make it fit."""
    from rich.table import Table

    from egup_trainer.cli.terminal import terminal
    from egup_trainer.planning.plan import PARTS

    table = Table(title="Memory, GB", title_justify="left")
    for heading in ("part", *plan.phases):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for part in PARTS:
        if any(parts.get(part) for parts in plan.phases.values()):
            table.add_row(part, *(_gb(parts.get(part, 0)) for parts in plan.phases.values()))
    table.add_section()
    table.add_row("together", *map(_gb, plan.peaks.values()))
    console = terminal()
    console.print(table)
    if not changes:
        return
    fits = changes[0].plan.fits(job.machine.memory)
    other = Table(title="What would make it fit" if fits else "Nearest, and still too much", title_justify="left")
    other.add_column("flags", overflow="fold")
    other.add_column("peak GB", justify="right")
    for change in changes:
        other.add_row(change.flags, _gb(change.plan.peak))
    console.print(other)


def _lines(job: Any, plan: Any, measured: Any, plan_args: PlanArguments) -> list[str]:
    """What to say below the tables."""
    from egup_trainer.planning.plan import MARGIN

    memory, share = job.machine.memory, plan.trained / plan.total
    lines = [
        f"Weights that train: {plan.trained:,} of {plan.total:,} ({share:.2%})",
        f"Largest micro-batch: {plan.rows} rows, {plan.positions:,} tokens read, {plan.answers:,} of answers",
        f"Optimizer steps: {plan.steps:,}",
        f"Peak: {_gb(plan.peak)} GB on {job.machine.name}, {_gb(memory)} GB: {_verdict(plan, memory)}"
        f" (an estimate that may be off by {MARGIN:.0%})",
    ]
    if not plan.optimizer_is_known:
        lines.append(f"The state of the optimizer {job.args.optim.value} is not known and not in these numbers")
    if plan_args.proxy == AUTO:
        lines.append("Proxies are still to be written: the forget rows stand in for them")
    if job.machine.is_gpu and job.args.bf16:
        lines.append("Computed in bfloat16 (autocast), as on a GPU that has it")
    if measured is not None:
        scanned = sum(len(each) for each in (job.rows.forget, job.rows.retain, job.rows.proxy) if each is not None)
        minutes = measured.seconds(plan.steps, scanned) / 60
        lines.append(
            f"Time: {measured.step:.2f} s a step, {minutes:.1f} minutes in all; peak of these steps "
            f"{measured.peak_gb:.2f} GB"
        )
    elif plan_args.measure_steps:
        lines.append("Time: not measured, since the run is planned for another machine or does not fit this one")
    return lines


def _verdict(plan: Any, memory: int) -> str:
    if plan.fits(memory):
        return "fits"
    return "may fit" if plan.peak <= memory else "does not fit"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3f}" if size < 1e9 else f"{size / 1e9:,.2f}"


def _print_lines(lines: list[str]) -> None:
    from egup_trainer.cli.terminal import terminal

    console = terminal()
    for line in lines:
        console.print(line, soft_wrap=True)
