"""Estimates of `egup plan` beside what `egup unlearn` then takes: `python -m benchmarks.plan`.

Each case is planned (counted, no step of its model taken) in a process of its own, and run in another one with the same
flags, whose peak is that of the whole process. What should come out: each within 20% of what was measured. What
libraries hold is part of both; `own` is the ratio without it, of which nothing is promised. One case runs again with
a C library that gives back freed memory at once: what is left then is what was to be counted.
"""

import argparse
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import markdown, tables
from benchmarks.speed.measure import in_process_of_its_own
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from benchmarks.tofu_small import AUTHORS, tofu_experiment
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.records.facts import run_facts

RESULTS = Line(tables.RESULTS / "plan.jsonl", "cpu")
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
GUIDED = ("--inter_entanglement", "--intra_entanglement", "--clreg_weight", "0.1")
LORA = ("--use_peft", "--lora_r", "8")
GIVEN_BACK, AT_ONCE = "tofu_full", {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""The case that runs once more, and what has glibc give back every block of 64 KB as soon as it is freed."""
VOCABULARY, ROWS = 64_000, 48
"""Of the model with a large vocabulary, and the TOFU rows of each kind that it takes."""


@dataclass(frozen=True)
class Case:
    """A run.

    Args:
        model: "demo", "tofu" (that of benchmarks/tofu_small.py) or "vocabulary".
        flags: for both commands.
        batch: pairs in a micro-batch.
    """

    model: str
    flags: tuple[str, ...] = ()
    batch: int = 16


CASES = {
    "demo_full": Case("demo", GUIDED),
    "demo_lora": Case("demo", LORA),
    "demo_lora_4bit": Case("demo", (*LORA, "--load_in_4bit", "--use_bnb_nested_quant")),
    "tofu_full": Case("tofu", GUIDED),
    "tofu_lora": Case("tofu", LORA),
    "tofu_checkpointing": Case("tofu", ("--gradient_checkpointing",)),
    "vocabulary_full": Case("vocabulary", batch=8),
    "vocabulary_checkpointing_2x4": Case(
        "vocabulary", ("--gradient_checkpointing", "--gradient_accumulation_steps", "4"), batch=2
    ),
}


def write_model(kind: str, data_dir: str | None, folder: Path) -> None:
    """A model with random weights, its tokenizer and its rows, as files."""
    quiet_libraries()
    from transformers import LlamaConfig, LlamaForCausalLM

    from egup_trainer.demo.experiment import demo_experiment, prepare
    from egup_trainer.demo.twins import make_model

    experiment = demo_experiment() if kind == "demo" else tofu_experiment(data_dir, AUTHORS, seed=0)
    tokenizer = prepare(experiment).tokenizer
    if kind == "vocabulary":
        shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **shape))
    else:
        model = make_model(tokenizer, experiment.size, seed=0)
    model.save_pretrained(folder / kind)
    tokenizer.save_pretrained(folder / kind)
    for name in ("forget", "retain", "proxy"):
        rows = getattr(experiment, name)[: ROWS if kind == "vocabulary" else None]
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{kind}_{name}.jsonl").write_text(text, encoding="utf-8")


def flags_of(name: str, folder: Path) -> list[str]:
    """What both commands are given."""
    case, kind = CASES[name], CASES[name].model
    rows = (
        word for each in ("forget", "retain", "proxy") for word in (f"--{each}", str(folder / f"{kind}_{each}.jsonl"))
    )
    options = ["--per_device_train_batch_size", str(case.batch), "--num_train_epochs", "1", "--use_cpu"]
    options += ["--report_to", "none", "--disable_tqdm", "true", "--output_dir", str(folder / f"out_{name}")]
    return ["--model_name_or_path", str(folder / kind), *rows, *options, *case.flags]


def planned(flags: list[str]) -> dict[str, Any]:
    """What `egup plan` counts."""
    quiet_libraries()
    from egup_trainer.cli.plan import COMMAND, estimate

    job, plan = estimate(*COMMAND.parser().parse(flags))
    return {"estimated_gb": plan.peak / 1e9, "libraries_gb": job.libraries / 1e9, "phases": plan.phases}


def measured(flags: list[str]) -> float:
    """The peak of `egup unlearn`, 10^9 bytes."""
    from egup_trainer.cli.unlearn import COMMAND
    from egup_trainer.components.step_log import peak_memory_gb

    COMMAND.main(flags)
    return peak_memory_gb()


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Estimate, measurement and their ratio, of a case."""
    flags = flags_of(name, folder)
    found = in_process_of_its_own(planned, flags)
    taken = in_process_of_its_own(measured, flags)
    libraries = found["libraries_gb"]
    own = (found["estimated_gb"] - libraries) / (taken - libraries)
    return {**asdict(CASES[name]), **found, "measured_gb": taken, "ratio": found["estimated_gb"] / taken, "own": own}


def measured_given_back(folder: Path) -> float:
    """The peak of the one case where freed memory goes back at once."""
    os.environ.update(AT_ONCE)  # read by a process as it starts
    try:
        return in_process_of_its_own(measured, flags_of(GIVEN_BACK, folder))
    finally:
        for name in AT_ONCE:
            del os.environ[name]


def table() -> str:
    """A row for each case."""
    if not RESULTS.exists():
        return "Not run."
    found = RESULTS.read()
    names = ("libraries_gb", "estimated_gb", "measured_gb", "ratio", "own")
    numbers = {name: [case[each] for each in names] for name, case in found["cases"].items()}
    if "given_back_gb" in found:
        libraries, estimated, *_ = numbers[GIVEN_BACK]
        taken = found["given_back_gb"]
        again = [libraries, estimated, taken, estimated / taken, (estimated - libraries) / (taken - libraries)]
        numbers[f"{GIVEN_BACK}, given back at once"] = again
    rows = ([f"`{name}`", *(f"{value:.2f}" for value in values)] for name, values in numbers.items())
    headings = ["case", "libraries GB", "estimated GB", "measured GB", "estimated / measured", "without libraries"]
    return markdown.table(headings, rows)


def main() -> None:
    """Runs all cases, writes the results and the page's table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--report", action="store_true", help="Write the table alone, from the results.")
    parser.add_argument("--given_back", action="store_true", help="Only the case that runs once more.")
    options = parser.parse_args()
    if not options.report:
        found = RESULTS.read() if options.given_back else {}
        with TemporaryDirectory() as name:
            found |= run(options.data_dir, Path(name), () if options.given_back else CASES)
        RESULTS.write(found)
    PAGE.write_text(markdown.put(PAGE.read_text(encoding="utf-8"), "plan", table()), encoding="utf-8")


def run(data_dir: str | None, folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Results of the named cases, and of the one that runs once more."""
    for kind in sorted({CASES[name].model for name in (*names, GIVEN_BACK)}):
        in_process_of_its_own(write_model, kind, data_dir, folder)
    cases = {}
    for name in names:
        cases[name] = compare(name, folder)
        print(name, {key: round(cases[name][key], 3) for key in ("estimated_gb", "measured_gb", "ratio")}, flush=True)
    given_back = measured_given_back(folder)
    print(f"{GIVEN_BACK}, given back at once: {given_back:.3f} GB", flush=True)
    facts = {"cases": cases, "run": run_facts(command="python -m benchmarks.plan")} if cases else {}
    return {**facts, "given_back_gb": given_back}


if __name__ == "__main__":
    main()
