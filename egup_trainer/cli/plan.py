"""`egup plan`: what `egup unlearn` with the same flags will take in memory and time, before anything is trained."""

from dataclasses import dataclass, replace
from typing import Any

from egup_trainer.cli.command import Command, library_errors
from egup_trainer.cli.flags import flag
from egup_trainer.cli.proxy import writes_proxies
from egup_trainer.cli.terminal import make_table, show
from egup_trainer.cli.unlearn import SHOWN, RowArguments, check_flags, training_options
from egup_trainer.errors import check_range


@dataclass
class PlanArguments(RowArguments):
    """The flags of `egup unlearn`, and two of its own."""

    help_title = "Plan"

    measure_steps: int = flag(
        "Number of steps to run, in a folder that is removed again, to measure their time; 0 measures none.", 2
    )
    memory_gb: float | None = flag(
        "Plan for a GPU with this much free memory in GB (10^9 bytes), or with --use_cpu for such a machine. By "
        "default this machine."
    )


def run(plan_args: PlanArguments, config: Any, model_config: Any) -> None:
    """Prints weights, memory by part and phase, steps, time, and what would make the run fit."""
    check_flags(plan_args, config, model_config)
    check_range(plan_args, ("measure_steps",), low=0, whole=True)
    check_range(plan_args, ("memory_gb",), low=0, low_is_allowed=False)
    from egup_trainer.planning.alternatives import changes_that_fit
    from egup_trainer.planning.plan import PARTS
    from egup_trainer.planning.rehearsal import measure_steps

    with library_errors():
        job, plan = estimate(plan_args, config, model_config)
        changes = [] if plan.fits(job.machine.memory) else changes_that_fit(job, model_config)
        is_here = plan_args.memory_gb is None and plan.peak <= job.machine.memory
        measured = measure_steps(job, plan_args.measure_steps) if plan_args.measure_steps and is_here else None

    table = make_table("Memory, GB", ("part", *plan.phases))
    for part in PARTS:
        if any(parts.get(part) for parts in plan.phases.values()):
            table.add_row(part, *(_gb(parts.get(part, 0)) for parts in plan.phases.values()))
    table.add_section()
    table.add_row("together", *map(_gb, plan.peaks.values()))
    tables = [table]
    if changes:
        fits = changes[0].plan.fits(job.machine.memory)
        title = "What would make it fit" if fits else "The nearest changes, which still do not make it fit"
        tables.append(make_table(title, ("flags", "peak GB")))
        for change in changes:
            tables[1].add_row(change.flags, _gb(change.plan.peak))
    show(*tables, lines=_lines(job, plan, measured, plan_args))


def estimate(plan_args: PlanArguments, config: Any, model_config: Any) -> tuple[Any, Any]:
    """The job, and its plan."""
    import egup_trainer.cli.run_file
    import egup_trainer.evaluation.callback  # noqa: F401  what a run imports, so that its libraries are measured, too
    from egup_trainer.planning.job import make_job
    from egup_trainer.planning.plan import make_plan
    from egup_trainer.planning.rehearsal import measure_libraries

    job = make_job(plan_args, config, model_config, stand_in=writes_proxies(plan_args, config))
    job = replace(job, libraries=measure_libraries(job))
    return job, make_plan(job)


def _lines(job: Any, plan: Any, measured: Any, plan_args: PlanArguments) -> list[str]:
    """What to say below the tables."""
    from egup_trainer.planning.plan import MARGIN

    memory = job.machine.memory
    verdict = "fits" if plan.fits(memory) else "may fit" if plan.peak <= memory else "does not fit"
    lines = [
        f"Weights that train: {plan.trained:,} of {plan.total:,} ({plan.trained / plan.total:.2%})",
        f"Largest micro-batch: {plan.rows} rows, {plan.positions:,} tokens read, {plan.answers:,} of them in answers",
        f"Optimizer steps: {plan.steps:,}",
        f"Peak: {_gb(plan.peak)} GB; {_gb(memory)} GB are free on {job.machine.name}: {verdict}"
        f" (an estimate that may be off by {MARGIN:.0%})",
    ]
    if not plan.optimizer_is_known:
        lines.append(f"These numbers leave out the state of the optimizer {job.args.optim.value}, which is not known")
    if writes_proxies(plan_args, job.args):
        lines.append("The proxies are not written yet: the plan uses the forget rows in their place")
    if job.machine.is_gpu and job.args.bf16:
        lines.append("Computed in bfloat16 (autocast), as on a GPU that supports it")
    if measured is not None:
        scanned = sum(len(each) for each in (job.rows.forget, job.rows.retain, job.rows.proxy) if each is not None)
        minutes = measured.seconds(plan.steps, scanned) / 60
        peak = f"peak of these steps {measured.peak_gb:.2f} GB"
        lines.append(f"Time: {measured.step:.2f} s per step, {minutes:.1f} minutes in total; {peak}")
    elif plan_args.measure_steps:
        lines.append("Time: not measured, since the plan is for another machine or the run does not fit on this one")
    return lines


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3f}" if size < 1e9 else f"{size / 1e9:,.2f}"


COMMAND = Command(
    "plan",
    "say what a run will take in memory and time, before it is started",
    run,
    options=lambda: [PlanArguments, *training_options()],
    required=("model_name_or_path", "forget"),
    shown=(*SHOWN, "measure_steps", "memory_gb"),
)
